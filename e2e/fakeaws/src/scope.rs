//! Who calls, and which service of which region: the credential scope of a
//! signature (Signature Version 4). That there is a signature is required;
//! whether it is right is not checked.

use crate::error::ApiError;
use crate::fixtures::Fixtures;
use crate::params::Service;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The service it means.
    pub service: Service,
    /// Its account: twelve digits in its access key after the first four
    /// letters, as keys of `AssumeRoleWithWebIdentity` have; else the
    /// fixtures'.
    pub account: String,
    /// The region it means.
    pub region: String,
    /// Its access key; empty for calls that need none.
    pub access_key: String,
}

impl Caller {
    /// Reads the header `Authorization`. `version` is the service of the
    /// `Version` parameter.
    pub fn of(
        authorization: Option<&str>,
        version: Option<Service>,
        action: &str,
        fixtures: &Fixtures,
    ) -> Result<Self, (Service, ApiError)> {
        let told = version.unwrap_or(Service::Elbv2);
        let Some(header) = authorization else {
            if action == "AssumeRoleWithWebIdentity" {
                return Ok(Self {
                    service: Service::Sts,
                    account: fixtures.account.clone(),
                    region: fixtures.region.clone(),
                    access_key: String::new(),
                });
            }
            let error = ApiError::new(
                "MissingAuthenticationToken",
                "Request is missing Authentication Token",
            );
            return Err((told, error.with_status(403)));
        };
        let Some((access_key, region, name)) = scope(header) else {
            let error = ApiError::new(
                "IncompleteSignature",
                "Authorization header requires AWS4-HMAC-SHA256 with 'Credential', 'SignedHeaders' and 'Signature'",
            );
            return Err((told, error));
        };
        let Some(service) = Service::from_scope(name) else {
            let error = ApiError::new(
                "SignatureDoesNotMatch",
                format!(
                    "Credential should be scoped to correct service: '{}', not '{name}'.",
                    told.scope()
                ),
            );
            return Err((told, error.with_status(403)));
        };
        Ok(Self {
            service,
            account: account(access_key).unwrap_or(&fixtures.account).to_owned(),
            region: region.to_owned(),
            access_key: access_key.to_owned(),
        })
    }
}

/// The twelve digits of an access key such as `ASIA1234567890120001`.
fn account(access_key: &str) -> Option<&str> {
    access_key
        .get(4..16)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Access key, region and service of
/// `AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, SignedHeaders=…, Signature=…`.
fn scope(header: &str) -> Option<(&str, &str, &str)> {
    let fields = header.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let field = |name: &str| {
        fields
            .split(',')
            .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
            .filter(|value| !value.is_empty())
    };
    field("SignedHeaders")?;
    field("Signature")?;
    let mut parts = field("Credential")?.rsplit('/');
    if parts.next()? != "aws4_request" {
        return None;
    }
    let (service, region, _date) = (parts.next()?, parts.next()?, parts.next()?);
    let access_key = parts.next().filter(|key| !key.is_empty())?;
    Some((access_key, region, service))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REST: &str = "SignedHeaders=host, Signature=0";

    fn of(credential: &str) -> Result<Caller, (Service, ApiError)> {
        let header = format!("AWS4-HMAC-SHA256 Credential={credential}, {REST}");
        Caller::of(Some(&header), None, "X", &Fixtures::default())
    }

    #[test]
    fn the_scope_says_who_where_and_what() {
        let caller = of("test/20260101/eu-west-1/ec2/aws4_request").unwrap();
        assert_eq!(caller.service, Service::Ec2);
        assert_eq!(
            (&*caller.account, &*caller.region),
            ("123456789012", "eu-west-1")
        );
        let caller =
            of("ASIA9999888877770001/20260101/r/elasticloadbalancing/aws4_request").unwrap();
        assert_eq!(caller.account, "999988887777");
    }

    #[test]
    fn calls_without_a_signature_are_refused() {
        let code = |result: Result<Caller, (Service, ApiError)>| result.unwrap_err().1.code;
        let unsigned = |action| Caller::of(None, Some(Service::Ec2), action, &Fixtures::default());
        assert_eq!(code(unsigned("DescribeVpcs")), "MissingAuthenticationToken");
        assert!(unsigned("AssumeRoleWithWebIdentity").is_ok());
        assert_eq!(
            code(of("test/20260101/r/s3/aws4_request")),
            "SignatureDoesNotMatch"
        );
        assert_eq!(code(of("test")), "IncompleteSignature");
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(header in ".{0,100}") {
            let _ = Caller::of(Some(&header), None, "X", &Fixtures::default());
            let _ = of(&header);
        }
    }
}
