//! Sockets, filters, netlink: the only crate with unsafe.
