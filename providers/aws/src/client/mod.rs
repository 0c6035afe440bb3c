//! The only way to AWS: every call is of the list in [`actions`](crate::actions),
//! passes the budget, and fails in one of the ways of [`CallError`].
//!
//! ```text
//!   who, action --> [gate] --wait for a token--> SDK (`ELBv2`), [query] (EC2) --> AWS
//!                     ^------throttled------------------'
//! ```
//!
//! The SDK's own retries are off: a read is tried again here, a write by the next
//! plan, which knows what came of it.

mod ec2;
mod elb;
mod error;
mod gate;
mod query;

use std::future::Future;
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::SdkConfig;
use aws_types::region::Region;
use herald_core::chain;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::sleep;

use crate::actions::{Action, Api};
use crate::budget::{Budget, Family};
use crate::metrics::{CallLabel, Metrics};
use crate::settings::Settings;
use gate::Gate;
use query::{Form, Query};

pub(crate) use elb::{ListenerSettings, TARGETS};

pub use ec2::parse_any;
pub use error::CallError;
pub use gate::Caller;

/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Who would wait for longer than this for a token comes back later.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a read is tried, and any call that was throttled.
const ATTEMPTS: u32 = 3;
/// Between two tries of a read that got no answer.
const PAUSE: Duration = Duration::from_millis(200);

/// What is missing to call AWS at all.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No region.
    #[error(
        "no AWS region: set --aws-region or AWS_REGION, or let the pod reach the instance metadata"
    )]
    NoRegion,
    /// No VPC.
    #[error("no VPC: set --aws-vpc-id, or let the pod reach the instance metadata ({0})")]
    NoVpc(String),
    /// The chain has no provider of credentials at all.
    #[error("no AWS credentials provider is configured")]
    NoCredentials,
}

/// How to reach AWS.
#[derive(Clone, Debug)]
pub struct Connection {
    config: SdkConfig,
    credentials: SharedCredentialsProvider,
    region: String,
    endpoint: Option<String>,
    ec2_endpoint: Option<String>,
    call_timeout: Duration,
}

impl Connection {
    /// The SDK's default chain: environment, profile, web identity (IRSA), EKS Pod
    /// Identity, instance metadata. The region is the settings', or the chain's.
    pub async fn from_chain(settings: &Settings) -> Result<Self, ConnectError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(https());
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        let config = loader.load().await;
        let region = config
            .region()
            .ok_or(ConnectError::NoRegion)?
            .as_ref()
            .to_owned();
        let credentials = config
            .credentials_provider()
            .ok_or(ConnectError::NoCredentials)?;
        let endpoint = settings
            .endpoint
            .clone()
            .or_else(|| config.endpoint_url().map(ToOwned::to_owned));
        let ec2_endpoint = std::env::var("AWS_ENDPOINT_URL_EC2").ok();
        Ok(Self {
            config,
            credentials,
            region,
            endpoint,
            ec2_endpoint,
            call_timeout: CALL_TIMEOUT,
        })
    }

    /// Fixed credentials at one endpoint for both services, for stand-ins of AWS.
    pub fn fixed(
        endpoint: &str,
        region: &str,
        credentials: aws_credential_types::Credentials,
    ) -> Self {
        let credentials = SharedCredentialsProvider::new(credentials);
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .credentials_provider(credentials.clone())
            .http_client(if endpoint.starts_with("http://") {
                Builder::new().build_http()
            } else {
                https()
            })
            .build();
        Self {
            config,
            credentials,
            region: region.to_owned(),
            endpoint: Some(endpoint.to_owned()),
            ec2_endpoint: None,
            call_timeout: CALL_TIMEOUT,
        }
    }

    /// With another time limit for each call (15 s by default).
    #[must_use]
    pub const fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// The VPC that this instance is in, by the instance metadata.
    pub async fn vpc_of_this_instance(&self) -> Result<String, ConnectError> {
        let imds = aws_config::imds::Client::builder().build();
        let get = async |path: String| {
            let value = imds.get(path).await;
            value
                .map(|value| value.as_ref().trim().to_owned())
                .map_err(|error| ConnectError::NoVpc(chain(&error)))
        };
        let mac = get("/latest/meta-data/mac".to_owned()).await?;
        get(format!(
            "/latest/meta-data/network/interfaces/macs/{mac}/vpc-id"
        ))
        .await
    }
}

fn https() -> SharedHttpClient {
    Builder::new()
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::Ring,
        ))
        .build_https()
}

/// Where EC2's API is in a region.
fn ec2_endpoint(region: &str) -> String {
    let suffix = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("https://ec2.{region}.{suffix}")
}

/// Calls AWS.
#[derive(Debug)]
pub struct Client {
    elb: aws_sdk_elasticloadbalancingv2::Client,
    query: Query,
    gate: Gate,
    metrics: Metrics,
}

impl Client {
    /// A client with a budget.
    pub fn new(connection: &Connection, budget: Budget, metrics: Metrics) -> Self {
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(connection.call_timeout)
            .build();
        let mut config = aws_sdk_elasticloadbalancingv2::config::Builder::from(&connection.config)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint) = &connection.endpoint {
            config = config.endpoint_url(endpoint);
        }
        let ec2 = connection
            .ec2_endpoint
            .clone()
            .or_else(|| connection.endpoint.clone())
            .unwrap_or_else(|| ec2_endpoint(&connection.region));
        Self {
            elb: aws_sdk_elasticloadbalancingv2::Client::from_conf(config.build()),
            query: Query::new(
                connection.credentials.clone(),
                connection.region.clone(),
                &ec2,
                connection.call_timeout,
            ),
            gate: Gate::new(budget, PATIENCE),
            metrics,
        }
    }

    /// The budget's rate at present, in calls a second, and how many wait.
    pub fn budget(&self, family: Family) -> (f64, usize) {
        self.gate
            .with(|budget| (budget.rate(family), budget.waiting(family)))
    }

    async fn ec2<T: DeserializeOwned>(
        &self,
        caller: Caller<'_>,
        action: Action,
        form: &Form,
    ) -> Result<T, CallError> {
        debug_assert_eq!(action.api(), Api::Ec2);
        self.call(caller, action, || self.query.call(action, form))
            .await
    }

    /// Calls, when the budget lets it.
    async fn call<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        caller: Caller<'_>,
        action: Action,
        send: impl Fn() -> F,
    ) -> Result<T, CallError> {
        let family = action.family();
        for attempt in 1.. {
            let passed = self.gate.pass(action, caller).await;
            self.metrics.budget(family, self.budget(family));
            passed?;
            let begin = Instant::now();
            let result = send().await;
            self.metrics
                .called(&CallLabel::new(action, &result), begin.elapsed());
            match result {
                Err(CallError::Throttled { .. }) => {
                    self.gate.throttled(family);
                    if attempt == ATTEMPTS {
                        return result;
                    }
                }
                Err(CallError::Unknown { .. }) if action.is_read() && attempt < ATTEMPTS => {
                    sleep(PAUSE).await;
                }
                result => return result,
            }
        }
        unreachable!("the loop ends by returning")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_follow_the_region() {
        assert_eq!(
            ec2_endpoint("eu-central-1"),
            "https://ec2.eu-central-1.amazonaws.com"
        );
        assert_eq!(
            ec2_endpoint("cn-north-1"),
            "https://ec2.cn-north-1.amazonaws.com.cn"
        );
    }
}
