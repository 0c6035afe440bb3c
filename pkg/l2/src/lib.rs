//! ARP and NDP, sans-IO.
