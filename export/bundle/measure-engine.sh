
[ -f model.engine ] || stop "there is no model.engine" "run ./build.sh first"
rm -f times.json times-transfers.json measure.log measure-transfers.log
echo "measuring for twice 30 seconds" >&2
# A line that fails is reported by the collector, with all that did not.
logged measure.log @MEASURE@ || true
logged measure-transfers.log @TRANSFERS@ || true
apt_edge bundle collect .
