//! Whether a speaker that is told to stop will be back.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::PartialObjectMeta;
use kube::{Api, Client, Error};

use super::Orders;

/// Name of the speakers' `DaemonSet`.
const DAEMON_SET: &str = "herald-speaker";
/// An API that does not answer so soon is taken to be away.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the sessions end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Without a word: another speaker comes up here, and the peers that do graceful
    /// restart keep the routes meanwhile.
    Restart,
    /// For good, for this reason.
    Leave(String),
}

/// A roll-out leaves the `DaemonSet` in place; an uninstallation takes it, and the
/// right to look at it, away. A node that shuts down is not Ready any more.
pub(super) async fn how(client: &Client, namespace: &str, orders: Option<&Orders>) -> Ending {
    if let Some(orders) = orders {
        if let Some(reason) = &orders.drain {
            return Ending::Leave(reason.clone());
        }
        if !orders.ready {
            return Ending::Leave("the node shuts down".into());
        }
    }
    let api = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    let got = tokio::time::timeout(PATIENCE, api.get_metadata(DAEMON_SET)).await;
    judge(got.ok())
}

fn judge(got: Option<Result<PartialObjectMeta<DaemonSet>, Error>>) -> Ending {
    let gone = match got {
        Some(Ok(set)) => set.metadata.deletion_timestamp.is_some(),
        Some(Err(Error::Api(error))) => matches!(error.code, 401 | 403 | 404),
        // The API is away: whoever stopped us, the routes are as good as before.
        Some(Err(_)) | None => false,
    };
    if gone {
        Ending::Leave("Herald is uninstalled from this cluster".into())
    } else {
        Ending::Restart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_for_good_is() {
        let set = |deleting: bool| {
            let deleted = deleting.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(
                serde_json::json!({"metadata": {"name": "x", "deletionTimestamp": deleted}}),
            )
            .unwrap()
        };
        assert_eq!(judge(Some(Ok(set(false)))), Ending::Restart);
        assert!(matches!(judge(Some(Ok(set(true)))), Ending::Leave(_)));
        assert_eq!(judge(None), Ending::Restart);
    }
}
