//! `MetalLB`'s objects as Herald's: kinds, fields and names are the same, so that
//! an object of theirs is one of ours but for its group and a few old spellings.
//!
//! ```text
//!   metallb-system: IPAddressPool.metallb.io ──convert──> herald-system: IPAddressPool.herald.dev
//! ```
//!
//! The objects of `MetalLB` are read and never written. With `--adopt metallb` the
//! leader keeps a copy of each in Herald's namespace ([`mirror`]); what
//! `herald-operator migrate` writes are the same copies, that are nobody's but the
//! user's from then on ([`migrate`]).

mod convert;
pub(crate) mod mirror;

use std::fmt::Write as _;

use herald_api::names::FIELD_MANAGER;
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::{Client, ResourceExt as _};
use thiserror::Error;

pub(crate) use convert::{Conversion, convert};

/// Label of the copies that follow `MetalLB`'s objects.
pub(crate) const LABEL_ADOPTED: &str = "herald.dev/adopted-from";
/// Value of [`LABEL_ADOPTED`].
pub(crate) const METALLB: &str = "metallb";
/// API group of `MetalLB`.
pub(crate) const THEIR_GROUP: &str = "metallb.io";
/// Herald's API group and version.
const OUR_GROUP: &str = "herald.dev";
const OUR_VERSION: &str = "v1alpha1";

/// A kind that both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) plural: &'static str,
    /// `MetalLB`'s versions of it, the newest first.
    pub(crate) versions: &'static [&'static str],
}

/// The kinds that both have, in the order in which objects are named by others.
pub(crate) const KINDS: [Kind; 6] = [
    Kind {
        name: "IPAddressPool",
        plural: "ipaddresspools",
        versions: &["v1beta1"],
    },
    Kind {
        name: "Community",
        plural: "communities",
        versions: &["v1beta1"],
    },
    Kind {
        name: "BFDProfile",
        plural: "bfdprofiles",
        versions: &["v1beta1"],
    },
    Kind {
        name: "BGPPeer",
        plural: "bgppeers",
        versions: &["v1beta2", "v1beta1"],
    },
    Kind {
        name: "L2Advertisement",
        plural: "l2advertisements",
        versions: &["v1beta1"],
    },
    Kind {
        name: "BGPAdvertisement",
        plural: "bgpadvertisements",
        versions: &["v1beta1"],
    },
];

impl Kind {
    pub(crate) fn theirs(&self, version: &str) -> ApiResource {
        resource(THEIR_GROUP, version, self)
    }

    pub(crate) fn ours(&self) -> ApiResource {
        resource(OUR_GROUP, OUR_VERSION, self)
    }
}

fn resource(group: &str, version: &str, kind: &Kind) -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(group, version, kind.name),
        kind.plural,
    )
}

/// Why `MetalLB`'s objects could not be taken over.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// They could not be read.
    #[error("cannot read MetalLB's {plural} in namespace {namespace}")]
    Read {
        /// Which.
        plural: &'static str,
        /// Where.
        namespace: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// One of ours could not be written.
    #[error("cannot write {kind} {name}; what was written before it stays")]
    Write {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

/// What a migration did, or would do.
#[derive(Debug, Default)]
pub struct Migration {
    /// Herald's objects, as JSON values, in the order in which they are written.
    pub objects: Vec<serde_json::Value>,
    /// What a person should read: objects that are left out, fields that mean
    /// something else.
    pub remarks: Vec<String>,
}

/// Reads `MetalLB`'s objects in `from` and makes Herald's of them for `namespace`;
/// writes them unless `dry_run`.
pub async fn migrate(
    client: &Client,
    from: &str,
    namespace: &str,
    dry_run: bool,
) -> Result<Migration, MigrateError> {
    let mut migration = Migration::default();
    for kind in &KINDS {
        for theirs in list(client, kind, from).await? {
            let name = theirs.name_any();
            match convert(kind, &theirs, namespace) {
                Ok(Conversion { object, remarks }) => {
                    migration.objects.push(as_value(&object));
                    for remark in remarks {
                        migration.remark(kind, &name, &remark);
                    }
                    if !dry_run {
                        write(client, kind, namespace, &object).await?;
                    }
                }
                Err(error) => migration.remark(kind, &name, &format!("left out: {error}")),
            }
        }
    }
    Ok(migration)
}

impl Migration {
    fn remark(&mut self, kind: &Kind, name: &str, what: &str) {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = write!(text, "{} {name}: {what}", kind.name);
        self.remarks.push(text);
    }
}

/// Objects of a kind in the newest version that is served; none where `MetalLB` is
/// not installed.
pub(crate) async fn list(
    client: &Client,
    kind: &Kind,
    namespace: &str,
) -> Result<Vec<DynamicObject>, MigrateError> {
    for version in kind.versions {
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &kind.theirs(version));
        match api.list(&ListParams::default()).await {
            Ok(list) => return Ok(list.items),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => {
                return Err(MigrateError::Read {
                    plural: kind.plural,
                    namespace: namespace.to_owned(),
                    source,
                });
            }
        }
    }
    Ok(Vec::new())
}

/// Applies an object without the label of a copy: it follows nobody from now on.
async fn write(
    client: &Client,
    kind: &'static Kind,
    namespace: &str,
    object: &DynamicObject,
) -> Result<(), MigrateError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.ours());
    // The label is the operator's; by the same manager it goes when it is not said.
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let name = object.name_any();
    match api.patch(&name, &parameters, &Patch::Apply(object)).await {
        Ok(_) => Ok(()),
        Err(source) => Err(MigrateError::Write {
            kind: kind.name,
            name,
            source,
        }),
    }
}

fn as_value(object: &DynamicObject) -> serde_json::Value {
    serde_json::to_value(object).unwrap_or_default()
}
