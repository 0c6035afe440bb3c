//! The cloud's HTTP API, one method per call.

use std::collections::BTreeSet;
use std::time::Duration;

use herald_core::{IpFamily, chain};
use herald_provider::ProviderError;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::timeout;

use crate::identity;
use crate::spec::Spec;
use crate::wire::{
    CreateLoadBalancer, ErrorBody, HealthCheck, Listener, LoadBalancer, LoadBalancerPage, Target,
};

/// More than any answer that makes sense: a page of 100 load balancers with
/// 500 targets each.
const LONGEST_ANSWER: usize = 16 << 20;

/// Why a text is not the endpoint of a cloud.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{given} is not the endpoint of a pretend cloud; it must look like http://192.0.2.1:8090 or http://[2001:db8::1]:8090"
)]
pub struct InvalidEndpoint {
    given: Uri,
}

/// Why a call did not do what it should.
#[derive(Debug, Error)]
enum CallError {
    /// No answer came. The work may have been done.
    #[error("the cloud did not answer {call} within {limit:?}")]
    Timeout { call: &'static str, limit: Duration },
    /// The cloud can't be reached, or the connection broke.
    #[error("the cloud at {endpoint} cannot be reached for {call}: {message}")]
    Unreachable {
        call: &'static str,
        endpoint: String,
        message: String,
    },
    /// The cloud said no.
    #[error("the cloud refused {call}: {message} ({code}, status {status})")]
    Refused {
        call: &'static str,
        status: StatusCode,
        code: String,
        message: String,
        retry_after: Option<Duration>,
    },
    /// The answer makes no sense.
    #[error("the cloud's answer to {call} makes no sense: {message}")]
    Garbled { call: &'static str, message: String },
}

impl From<CallError> for ProviderError {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        let reason = match error {
            CallError::Timeout { .. } => "CloudTimeout",
            CallError::Unreachable { .. } => "CloudUnreachable",
            CallError::Garbled { .. } => "CloudError",
            CallError::Refused {
                status,
                code,
                retry_after,
                ..
            } => match code.as_str() {
                "AlreadyExists" | "NotFound" | "BeingDeleted" | "IdempotencyMismatch" => {
                    return Self::Conflict(message);
                }
                "QuotaExceeded" | "AddressesExhausted" => "QuotaExceeded",
                _ if status == StatusCode::TOO_MANY_REQUESTS => {
                    return Self::Throttled {
                        message,
                        retry_after,
                    };
                }
                "InvalidRequest" => "InvalidRequest",
                _ => "CloudError",
            },
        };
        Self::Failed { reason, message }
    }
}

/// Speaks to one cloud.
#[derive(Clone, Debug)]
pub struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    /// Scheme and authority, without a slash at the end.
    endpoint: String,
    timeout: Duration,
}

impl Client {
    /// A client for `http://host:port`. A call that takes longer than
    /// `timeout` has failed.
    pub fn new(endpoint: &Uri, timeout: Duration) -> Result<Self, InvalidEndpoint> {
        let plain = endpoint.scheme_str() == Some("http")
            && matches!(endpoint.path(), "" | "/")
            && endpoint.query().is_none();
        let Some(authority) = endpoint.authority().filter(|_| plain) else {
            return Err(InvalidEndpoint {
                given: endpoint.clone(),
            });
        };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            http: HttpClient::builder(TokioExecutor::new()).build(connector),
            endpoint: format!("http://{authority}"),
            timeout,
        })
    }

    /// The same client with another patience.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The load balancer of that name, if there is one.
    pub async fn find(&self, name: &str) -> Result<Option<LoadBalancer>, ProviderError> {
        let call = "ListLoadBalancers";
        // Names are made of letters, digits and '-'.
        let path = format!("/v1/load-balancers?name={name}");
        let answer = self.call(call, Method::GET, &path, None).await?;
        let page: LoadBalancerPage = parse(call, &answer)?;
        Ok(page.items.into_iter().find(|item| item.name == name))
    }

    /// Whether a load balancer still exists.
    pub async fn exists(&self, id: &str) -> Result<bool, ProviderError> {
        let path = format!("/v1/load-balancers/{id}");
        match self.call("GetLoadBalancer", Method::GET, &path, None).await {
            Ok(_) => Ok(true),
            Err(CallError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a load balancer.
    pub async fn create(&self, spec: &Spec) -> Result<(), ProviderError> {
        let call = "CreateLoadBalancer";
        let mut request = CreateLoadBalancer {
            name: &spec.name,
            client_token: "",
            tags: &spec.tags,
            address_type: spec.address_type,
            families: &spec.families,
            listeners: &spec.listeners,
            targets: &spec.targets,
            health_check: &spec.health_check,
        };
        let token = identity::token(&json!(request).to_string());
        request.client_token = &token;
        self.call(
            call,
            Method::POST,
            "/v1/load-balancers",
            Some(json!(request)),
        )
        .await?;
        Ok(())
    }

    /// Changes which families a load balancer has addresses of.
    pub async fn set_families(
        &self,
        id: &str,
        families: &BTreeSet<IpFamily>,
    ) -> Result<(), ProviderError> {
        self.put(
            "SetFamilies",
            id,
            "families",
            json!({ "families": families }),
        )
        .await
    }

    /// Replaces all targets.
    pub async fn set_targets(&self, id: &str, targets: &[Target]) -> Result<(), ProviderError> {
        self.put("SetTargets", id, "targets", json!({ "targets": targets }))
            .await
    }

    /// Changes how targets are checked.
    pub async fn set_health_check(
        &self,
        id: &str,
        check: &HealthCheck,
    ) -> Result<(), ProviderError> {
        self.put(
            "SetHealthCheck",
            id,
            "health-check",
            json!({ "healthCheck": check }),
        )
        .await
    }

    /// Replaces all listeners.
    pub async fn set_listeners(
        &self,
        id: &str,
        listeners: &[Listener],
    ) -> Result<(), ProviderError> {
        self.put(
            "SetListeners",
            id,
            "listeners",
            json!({ "listeners": listeners }),
        )
        .await
    }

    /// Begins to delete a load balancer; fine if it is gone.
    pub async fn delete(&self, id: &str) -> Result<(), ProviderError> {
        let path = format!("/v1/load-balancers/{id}");
        match self
            .call("DeleteLoadBalancer", Method::DELETE, &path, None)
            .await
        {
            Ok(_) => Ok(()),
            Err(CallError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn put(
        &self,
        call: &'static str,
        id: &str,
        part: &str,
        body: Value,
    ) -> Result<(), ProviderError> {
        let path = format!("/v1/load-balancers/{id}/{part}");
        self.call(call, Method::PUT, &path, Some(body)).await?;
        Ok(())
    }

    /// Makes one call; returns the body of a successful answer.
    async fn call(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Bytes, CallError> {
        let unreachable = |message: String| CallError::Unreachable {
            call,
            endpoint: self.endpoint.clone(),
            message,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint));
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Full::from(body.to_string())
            }
            None => Full::default(),
        };
        let request = request
            .body(body)
            .map_err(|error| unreachable(error.to_string()))?;
        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| unreachable(chain(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER)
                .collect()
                .await
                .map_err(|error| unreachable(chain(error.as_ref())))?
                .to_bytes();
            Ok((head, body))
        };
        let (head, body) =
            timeout(self.timeout, exchange)
                .await
                .map_err(|_| CallError::Timeout {
                    call,
                    limit: self.timeout,
                })??;
        if head.status.is_success() {
            return Ok(body);
        }
        // An error of something in between has no body that we know.
        let (code, message) = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => (body.error.code, body.error.message),
            Err(_) => ("Unknown".to_owned(), "no reason given".to_owned()),
        };
        Err(CallError::Refused {
            call,
            status: head.status,
            code,
            message,
            retry_after: retry_after(&head.headers),
        })
    }
}

fn parse<T: serde::de::DeserializeOwned>(call: &'static str, body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|error| CallError::Garbled {
        call,
        message: error.to_string(),
    })
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3; the form with a date is
/// not used by this cloud).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_plain_http_with_nothing_behind_the_port() {
        let client = |text: &str| Client::new(&text.parse().unwrap(), Duration::from_secs(1));
        for right in [
            "http://192.0.2.1:8090",
            "http://[2001:db8::1]:8090/",
            "http://cloud",
        ] {
            assert!(client(right).is_ok(), "{right}");
        }
        for wrong in ["https://cloud:8090", "http://cloud/v1", "/v1", "cloud:8090"] {
            assert!(client(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn refusals_become_what_the_operator_can_act_on() {
        let refused = |status: u16, code: &str| {
            ProviderError::from(CallError::Refused {
                call: "CreateLoadBalancer",
                status: StatusCode::from_u16(status).unwrap(),
                code: code.into(),
                message: "because".into(),
                retry_after: Some(Duration::from_secs(3)),
            })
        };
        let reason = |error| match error {
            ProviderError::Failed { reason, message } => {
                assert!(message.contains("CreateLoadBalancer") && message.contains("because"));
                reason
            }
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            refused(409, "AlreadyExists"),
            ProviderError::Conflict(_)
        ));
        assert!(matches!(
            refused(404, "NotFound"),
            ProviderError::Conflict(_)
        ));
        assert_eq!(reason(refused(402, "QuotaExceeded")), "QuotaExceeded");
        assert_eq!(reason(refused(400, "InvalidRequest")), "InvalidRequest");
        assert_eq!(reason(refused(500, "InternalError")), "CloudError");
        assert!(matches!(
            refused(429, "Throttling"),
            ProviderError::Throttled { retry_after: Some(wait), .. } if wait.as_secs() == 3
        ));
    }
}
