
trtexec=$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)
[ -x "$trtexec" ] ||
    stop "trtexec is neither on PATH nor at $trtexec" "install TensorRT @VERSION@ with its samples, or add trtexec's folder to PATH"
banner=$("$trtexec" --help 2>&1) || true
case $banner in
    *"[TensorRT v@PREFIX@"[0-9][0-9]"]"*) ;;
    *) stop "this bundle is for TensorRT @VERSION@, and $trtexec is not: $(head -n 1 <<< "$banner")" \
        "export for the target of this device, or with its version" ;;
esac

# logged FILE COMMAND...: run with the output in a file; when it fails, show the file's end.
logged() {
    local log=$1
    shift
    "$@" > "$log" 2>&1 || {
        tail -n 20 "$log" >&2
        return 1
    }
}
