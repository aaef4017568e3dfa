
# A limit of the builder's memory: WORKSPACE=2048 ./build.sh (MiB).
limit=()
[ -z "${WORKSPACE:-}" ] || limit=("--memPoolSize=workspace:$WORKSPACE")
trap 'rm -f model.engine.part layers.json.part' EXIT
echo "building model.engine with $trtexec; this takes minutes, build.log tells what it does" >&2
logged build.log @BUILD@ \
    ${limit[@]+"${limit[@]}"} || stop "trtexec could not build the engine" "read build.log; if memory ran out, set WORKSPACE=1024 (MiB)"
apt_edge bundle layers . layers.json.part
mv layers.json.part layers.json
cp build.log engine.log # of the engine that is kept: a later build may fail
mv model.engine.part model.engine
apt_edge bundle trust . # built here, from this graph
echo "model.engine is built; next: ./selftest.sh" >&2
