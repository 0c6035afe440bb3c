//! How a call to AWS fails.

use std::time::Duration;

use herald_provider::ProviderError;
use thiserror::Error;

use crate::actions::Action;

/// A call that failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// AWS refused it, and did nothing.
    #[error("AWS refused {action} ({code}): {message}")]
    Refused {
        /// Which call.
        action: Action,
        /// AWS's error code, such as `TooManyLoadBalancers`.
        code: String,
        /// AWS's words.
        message: String,
    },
    /// AWS said that it came too soon.
    #[error("AWS throttles {action} ({code})")]
    Throttled {
        /// Which call.
        action: Action,
        /// AWS's error code.
        code: String,
    },
    /// There was no answer that says whether it was done.
    #[error("no answer from AWS to {action}: {message}")]
    Unknown {
        /// Which call.
        action: Action,
        /// What became of it.
        message: String,
    },
    /// It was not sent: there is nothing to sign it with.
    #[error(
        "no credentials for AWS to call {action}: {message}; give the pod's service account a role (IRSA or EKS Pod Identity), or set the SDK's environment variables"
    )]
    NoCredentials {
        /// Which call.
        action: Action,
        /// What the chain of providers says.
        message: String,
    },
    /// It was not sent: the budget has no call for it yet.
    #[error("{action} waits for its turn: calls to AWS are held below the account's limits")]
    Later {
        /// Which call.
        action: Action,
        /// Its turn comes after this long.
        after: Duration,
    },
}

impl CallError {
    /// AWS's error code, where AWS refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether AWS refused with one of these codes.
    pub fn is(&self, codes: &[&str]) -> bool {
        self.code().is_some_and(|code| codes.contains(&code))
    }

    /// Whether AWS says that there is no such object.
    pub fn not_found(&self) -> bool {
        self.code().is_some_and(|code| {
            matches!(
                code,
                "LoadBalancerNotFound"
                    | "TargetGroupNotFound"
                    | "ListenerNotFound"
                    | "InvalidGroup.NotFound"
                    | "InvalidGroupId.NotFound"
                    | "InvalidPermission.NotFound"
            )
        })
    }

    /// Whether it may have been done although it failed.
    pub const fn may_be_done(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// What an operator of the cluster can do about a code.
fn advice(code: &str) -> &'static str {
    match code {
        "TooManyLoadBalancers" => {
            "; ask AWS for a higher quota of Network Load Balancers in this region, or delete some"
        }
        "TooManyTargetGroups" => {
            "; ask AWS for a higher quota of target groups in this region, or delete some"
        }
        "TooManyListeners" => "; a load balancer has at most 50 listeners: split the Service",
        "TooManyTargets" | "TooManyRegistrationsForTargetId" => {
            "; select fewer nodes (annotation aws-load-balancer-target-node-labels), or ask AWS for a higher quota of targets"
        }
        "RulesPerSecurityGroupLimitExceeded" => {
            "; name fewer source ranges, use a prefix list, or ask AWS for a higher quota of rules for each security group"
        }
        "SecurityGroupLimitExceeded" => {
            "; ask AWS for a higher quota of security groups for each VPC, or delete some"
        }
        "CertificateNotFound" => {
            "; check the ARNs in annotation aws-load-balancer-ssl-cert, which must be of this region"
        }
        "SSLPolicyNotFound" => "; check annotation aws-load-balancer-ssl-negotiation-policy",
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
            "; attach the policy that `herald-operator aws-iam-policy` prints to the operator's role"
        }
        _ => "",
    }
}

impl From<CallError> for ProviderError {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::Refused { code, .. } => Self::Failed {
                reason: reason(&code),
                message: format!("{message}{}", advice(&code)),
            },
            CallError::Throttled { .. } => Self::Throttled {
                message,
                retry_after: Some(Duration::from_secs(5)),
            },
            CallError::Unknown { .. } => Self::Failed {
                reason: "CloudUnreachable",
                message,
            },
            CallError::NoCredentials { .. } => Self::Failed {
                reason: "NoCredentials",
                message,
            },
            CallError::Later { after, .. } => Self::Waiting {
                reason: "RateLimited",
                message,
                recheck: after,
            },
        }
    }
}

/// The condition's reason for a code.
fn reason(code: &str) -> &'static str {
    match code {
        _ if code.starts_with("TooMany") || code.ends_with("LimitExceeded") => "QuotaReached",
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => "AccessDenied",
        "InvalidTarget" => "InvalidTarget",
        "OperationNotPermitted" => "NotPermitted",
        _ => "CloudRefused",
    }
}

/// Codes that mean: slower.
pub(crate) fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            | "PriorRequestNotComplete"
            | "SlowDown"
    )
}
