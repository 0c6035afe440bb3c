//! `ELBv2`'s actions that Herald needs, by the SDK.

mod convert;
mod reads;
mod writes;

use std::error::Error;
use std::fmt::Debug;
use std::future::Future;

use aws_sdk_elasticloadbalancingv2::error::{ProvideErrorMetadata, SdkError};
use herald_core::chain;

use crate::actions::{Action, Api};
use crate::client::error::is_throttling;
use crate::client::{CallError, Caller, Client};
pub(crate) use convert::ListenerSettings;

/// The largest page of `DescribeLoadBalancers` and `DescribeTargetGroups`.
const PAGE: i32 = 400;
/// The most ARNs of one `DescribeTags` or `DescribeLoadBalancers`.
pub(crate) const ARNS: usize = 20;
/// The most targets of one `RegisterTargets` or `DeregisterTargets`.
pub(crate) const TARGETS: usize = 200;

impl Client {
    async fn elb<T, E, R, F>(
        &self,
        caller: Caller<'_>,
        action: Action,
        send: impl Fn(aws_sdk_elasticloadbalancingv2::Client) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, SdkError<E, R>>>,
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
        R: Debug + Send + Sync + 'static,
    {
        debug_assert_eq!(action.api(), Api::Elbv2);
        let send = &send;
        self.call(caller, action, || async move {
            send(self.elb.clone())
                .await
                .map_err(|error| failure(action, &error))
        })
        .await
    }
}

/// What a failure of the SDK's means.
fn failure<E, R>(action: Action, error: &SdkError<E, R>) -> CallError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: Debug + Send + Sync + 'static,
{
    let message = chain(error);
    let SdkError::ServiceError(service) = error else {
        if message.contains("credentials") || message.contains("identity") {
            return CallError::NoCredentials { action, message };
        }
        return CallError::Unknown { action, message };
    };
    let code = service.err().code().unwrap_or_default().to_owned();
    let words = service.err().message().unwrap_or_default().to_owned();
    // About one load balancer, and no matter of rates.
    let busy = action == Action::ModifyCapacityReservation && code == "PriorRequestNotComplete";
    if is_throttling(&code) && !busy {
        return CallError::Throttled { action, code };
    }
    // An error of AWS's own: it may have been done.
    if code.is_empty()
        || matches!(
            code.as_str(),
            "InternalFailure" | "InternalError" | "ServiceUnavailable"
        )
    {
        return CallError::Unknown {
            action,
            message: format!("{code} {words}"),
        };
    }
    CallError::Refused {
        action,
        code,
        message: words,
    }
}
