//! Who owns a VIP, pure.
