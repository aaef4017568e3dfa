apt_edge bundle selftest .
