//! Which VIP is announced where, and by what.
