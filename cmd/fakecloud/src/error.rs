//! Errors as callers see them.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use thiserror::Error;

/// A call that was refused. On the wire it is
/// `{"error": {"code": …, "message": …}}` with the status.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// What callers decide by.
    pub code: String,
    /// What people read.
    pub message: String,
    /// Header `Retry-After`, rounded up to seconds.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error of any kind.
    pub fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            retry_after: None,
        }
    }

    /// 400: the request can't be understood or makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidRequest", message)
    }

    /// 404: no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "NotFound", message)
    }

    /// 409: the state of things does not allow it.
    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(409, code, message)
    }

    /// 402: it would exceed a quota.
    pub fn quota(message: impl Into<String>) -> Self {
        Self::new(402, "QuotaExceeded", message)
    }

    /// 429: too many calls.
    pub fn throttling(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(429, "Throttling", "rate exceeded")
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = json!({"error": {"code": self.code, "message": self.message}});
        let mut response = (status, Json(body)).into_response();
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_rounds_up_so_that_nobody_comes_too_early() {
        let response = ApiError::throttling(Duration::from_millis(1200)).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
