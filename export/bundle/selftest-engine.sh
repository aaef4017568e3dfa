
[ -f model.engine ] || stop "there is no model.engine" "run ./build.sh first"
apt_edge bundle inputs . selftest
@SELFTEST@
apt_edge bundle selftest . selftest
