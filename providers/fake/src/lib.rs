//! A pretend cloud's load balancers.
