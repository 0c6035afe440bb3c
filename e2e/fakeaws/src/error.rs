//! Errors as callers see them.

use http::StatusCode;
use thiserror::Error;

use crate::params::Service;
use crate::xml::Xml;

/// A call that was refused. On the wire it is the service's own error XML.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// What callers decide by, such as `LoadBalancerNotFound`.
    pub code: String,
    /// What people read.
    pub message: String,
}

impl ApiError {
    /// An error of the caller, status 400, which is what most of AWS's are.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            code: code.into(),
            message: message.into(),
        }
    }

    /// The same with another status.
    #[must_use]
    pub const fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// ELB's `ValidationError`.
    pub fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationError", message)
    }

    /// EC2's `InvalidParameterValue`.
    pub fn value(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    /// Too many calls, in the words of each service.
    pub fn throttled(service: Service) -> Self {
        match service {
            Service::Ec2 => {
                Self::new("RequestLimitExceeded", "Request limit exceeded.").with_status(503)
            }
            Service::Elbv2 => Self::new("ThrottlingException", "Rate exceeded"),
            Service::Sts => Self::new("Throttling", "Rate exceeded"),
        }
    }

    /// The status to answer with.
    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The whole answer.
    pub fn document(&self, service: Service, request_id: &str) -> String {
        let mut xml = Xml::document();
        match service {
            Service::Ec2 => xml.node("Response", |x| {
                x.node("Errors", |x| {
                    x.node("Error", |x| {
                        x.text("Code", &self.code).text("Message", &self.message);
                    });
                })
                .text("RequestID", request_id);
            }),
            Service::Elbv2 | Service::Sts => xml.root("ErrorResponse", service.namespace(), |x| {
                x.node("Error", |x| {
                    let side = if self.status < 500 {
                        "Sender"
                    } else {
                        "Receiver"
                    };
                    x.text("Type", side)
                        .text("Code", &self.code)
                        .text("Message", &self.message);
                })
                .text("RequestId", request_id);
            }),
        };
        xml.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_its_own_error_document() {
        let error = ApiError::new("Duplicate<Name>", "a & b");
        let elb = error.document(Service::Elbv2, "r-1");
        assert!(
            elb.contains("<Error><Type>Sender</Type><Code>Duplicate&lt;Name&gt;</Code><Message>a &amp; b</Message></Error><RequestId>r-1</RequestId>"),
            "{elb}"
        );
        let ec2 = error.document(Service::Ec2, "r-1");
        assert!(
            ec2.ends_with("</Error></Errors><RequestID>r-1</RequestID></Response>"),
            "{ec2}"
        );
        assert_eq!(ApiError::throttled(Service::Ec2).status, 503);
    }
}
