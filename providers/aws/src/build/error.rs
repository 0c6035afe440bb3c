//! Why there is no specification for a Service.

use thiserror::Error;

use crate::annotations::InvalidAnnotations;

/// What a Service asks for can't be, as it or the account stands. What exists is left
/// as it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidSpec {
    /// Its annotations are wrong by themselves.
    #[error(transparent)]
    Annotations(#[from] InvalidAnnotations),
    /// Its annotations or its ports do not fit each other.
    #[error("{0}")]
    Request(String),
    /// There are no subnets for it.
    #[error("{0}")]
    Subnets(String),
    /// A security group that it names is not there.
    #[error("{0}")]
    SecurityGroups(String),
}

impl InvalidSpec {
    /// Reason of the condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Annotations(_) => "InvalidAnnotations",
            Self::Request(_) => "InvalidRequest",
            Self::Subnets(_) => "NoSubnets",
            Self::SecurityGroups(_) => "SecurityGroupNotFound",
        }
    }
}
