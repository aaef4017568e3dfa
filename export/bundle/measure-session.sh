apt_edge bundle measure . "$@"
apt_edge bundle collect .
