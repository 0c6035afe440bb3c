//! Conditions as in `metav1.Condition`, for our own kinds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One condition of an object (Kubernetes API conventions, "Typical status
/// properties").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What this is about, `CamelCase`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// `metadata.generation` this was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed, RFC 3339.
    pub last_transition_time: String,
    /// Why, `CamelCase`, for programs.
    pub reason: String,
    /// Why and what to do, for people.
    pub message: String,
}

/// Puts `new` in the place of the condition of its type. Keeps the transition
/// time where the status stays; says whether anything changed.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    let Some(old) = conditions.iter_mut().find(|old| old.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time
            .clone_from(&old.last_transition_time);
    }
    let changed = *old != new;
    *old = new;
    changed
}
