//! Services to provider to status: the reconciler.
