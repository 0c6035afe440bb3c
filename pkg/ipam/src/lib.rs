//! Address allocation, pure.
