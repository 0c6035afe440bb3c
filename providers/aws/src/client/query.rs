//! The Query protocol as EC2 speaks it: a signed form goes out, XML comes back.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::{Connector, tls};
use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings};
use aws_smithy_runtime_api::http::Request;
use aws_smithy_types::body::SdkBody;
use herald_core::chain;
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::actions::Action;
use crate::client::CallError;
use crate::client::error::is_throttling;

/// Version of EC2's API.
const VERSION: &str = "2016-11-15";
/// Answers are pages; none is longer.
const LONGEST_ANSWER: usize = 32 << 20;
/// Credentials that end sooner are asked for anew.
const FRESH: Duration = Duration::from_mins(5);

/// Parameters of a call.
#[derive(Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// `Name.1`, `Name.2`, ...
    pub(crate) fn list<V: Into<String>>(
        mut self,
        name: &str,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        for (index, value) in values.into_iter().enumerate() {
            self.0.push((format!("{name}.{}", index + 1), value.into()));
        }
        self
    }

    /// `Filter.n.Name` and `Filter.n.Value.m`.
    pub(crate) fn filter<V: Into<String>>(
        self,
        number: usize,
        name: &str,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        self.with(format!("Filter.{number}.Name"), name)
            .list(&format!("Filter.{number}.Value"), values)
    }

    fn encode(&self, action: Action) -> String {
        let mut text = format!("Action={action}&Version={VERSION}");
        for (name, value) in &self.0 {
            text.push('&');
            escape(&mut text, name);
            text.push('=');
            escape(&mut text, value);
        }
        text
    }
}

/// RFC 3986, 2.3: all but unreserved characters.
fn escape(text: &mut String, value: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// Calls EC2.
#[derive(Debug)]
pub(crate) struct Query {
    connector: Connector,
    credentials: SharedCredentialsProvider,
    cached: Mutex<Option<Credentials>>,
    region: String,
    endpoint: String,
    timeout: Duration,
}

impl Query {
    pub(crate) fn new(
        credentials: SharedCredentialsProvider,
        region: String,
        endpoint: &str,
        timeout: Duration,
    ) -> Self {
        let settings = HttpConnectorSettings::builder()
            .connect_timeout(timeout)
            .read_timeout(timeout)
            .build();
        let connector = Connector::builder()
            .connector_settings(settings)
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .build();
        Self {
            connector,
            credentials,
            cached: Mutex::new(None),
            region,
            endpoint: endpoint.trim_end_matches('/').to_owned() + "/",
            timeout,
        }
    }

    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        action: Action,
        form: &Form,
    ) -> Result<T, CallError> {
        let unknown = |message: String| CallError::Unknown { action, message };
        let request = self.signed(action, form.encode(action)).await?;
        let exchange = async {
            let answer = self
                .connector
                .call(request)
                .await
                .map_err(|error| unknown(chain(&error)))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), LONGEST_ANSWER)
                .collect()
                .await
                .map_err(|error| unknown(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        let (status, body) = timeout(self.timeout, exchange)
            .await
            .map_err(|_| unknown(format!("none within {:?}", self.timeout)))??;
        if status != 200 {
            return Err(refusal(action, status, &body));
        }
        parse(&body).map_err(|error| unknown(format!("its answer can't be read: {error}")))
    }

    async fn signed(&self, action: Action, body: String) -> Result<Request, CallError> {
        let none = |message: String| CallError::NoCredentials { action, message };
        let identity = self
            .credentials()
            .await
            .map_err(|error| none(chain(&error)))?
            .into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("ec2")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| none(error.to_string()))?;
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        let host = self
            .endpoint
            .split_once("://")
            .map_or("", |(_, rest)| rest)
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let headers = [("content-type", kind), ("host", host.as_str())];
        let signable = SignableRequest::new(
            "POST",
            self.endpoint.as_str(),
            headers.into_iter(),
            SignableBody::Bytes(body.as_bytes()),
        )
        .map_err(|error| none(error.to_string()))?;
        let (instructions, _) = sign(signable, &parameters.into())
            .map_err(|error| none(error.to_string()))?
            .into_parts();
        let mut request = Request::new(SdkBody::from(body));
        request
            .set_method("POST")
            .and_then(|()| request.set_uri(self.endpoint.as_str()))
            .map_err(|error| none(error.to_string()))?;
        request.headers_mut().insert("content-type", kind);
        for (name, value) in instructions.headers() {
            request
                .headers_mut()
                .insert(name.to_owned(), value.to_owned());
        }
        Ok(request)
    }

    async fn credentials(
        &self,
    ) -> Result<Credentials, aws_credential_types::provider::error::CredentialsError> {
        let mut cached = self.cached.lock().await;
        if let Some(credentials) = &*cached
            && credentials
                .expiry()
                .is_none_or(|end| end > SystemTime::now() + FRESH)
        {
            return Ok(credentials.clone());
        }
        let credentials = self.credentials.provide_credentials().await?;
        *cached = Some(credentials.clone());
        Ok(credentials)
    }
}

/// Reads an answer. Whatever the bytes are, this ends in a value or an error.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    quick_xml::de::from_str(text).map_err(|error| error.to_string())
}

/// `<Response><Errors><Error><Code/><Message/></Error></Errors></Response>`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ErrorAnswer {
    #[serde(rename = "Errors", default)]
    errors: Errors,
}

#[derive(Debug, Default, Deserialize)]
struct Errors {
    #[serde(rename = "Error", default)]
    error: Vec<ErrorItem>,
}

#[derive(Debug, Default, Deserialize)]
struct ErrorItem {
    #[serde(rename = "Code", default)]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

fn refusal(action: Action, status: u16, body: &[u8]) -> CallError {
    let item = parse::<ErrorAnswer>(body)
        .ok()
        .and_then(|answer| answer.errors.error.into_iter().next());
    match item {
        Some(ErrorItem { code, .. }) if is_throttling(&code) => {
            CallError::Throttled { action, code }
        }
        Some(ErrorItem { code, message }) if status < 500 => CallError::Refused {
            action,
            code,
            message,
        },
        Some(ErrorItem { code, message }) => CallError::Unknown {
            action,
            message: format!("status {status}, {code}: {message}"),
        },
        None if status == 429 || status == 503 => CallError::Throttled {
            action,
            code: status.to_string(),
        },
        None => CallError::Unknown {
            action,
            message: format!("status {status}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_escaped() {
        let form = Form::default()
            .filter(1, "tag:a/b", ["x y", "ü&="])
            .list("GroupId", ["sg-1"]);
        assert_eq!(
            form.encode(Action::DescribeSecurityGroups),
            "Action=DescribeSecurityGroups&Version=2016-11-15&Filter.1.Name=tag%3Aa%2Fb\
             &Filter.1.Value.1=x%20y&Filter.1.Value.2=%C3%BC%26%3D&GroupId.1=sg-1"
        );
    }

    #[test]
    fn errors_are_told_apart() {
        let of = |status, code: &str| {
            let body = format!(
                "<?xml version=\"1.0\"?>\n<Response><Errors><Error><Code>{code}</Code>\
                 <Message>words</Message></Error></Errors><RequestID>r</RequestID></Response>"
            );
            refusal(Action::DescribeVpcs, status, body.as_bytes())
        };
        assert!(matches!(
            of(503, "RequestLimitExceeded"),
            CallError::Throttled { .. }
        ));
        assert!(of(400, "InvalidGroup.NotFound").not_found());
        assert!(of(500, "InternalError").may_be_done());
        assert!(refusal(Action::DescribeVpcs, 502, b"<html>").may_be_done());
        assert!(matches!(
            refusal(Action::DescribeVpcs, 503, b""),
            CallError::Throttled { .. }
        ));
    }
}
