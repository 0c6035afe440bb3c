//! Label selectors, matched the way the API server does.

use std::collections::BTreeMap;

use herald_core::Labels;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// `metav1.LabelSelector`: all of its requirements must hold; an empty one
/// matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must be there with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// One of `matchExpressions[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LabelSelectorRequirement {
    /// The label's key.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[schemars(regex(pattern = r"^(In|NotIn|Exists|DoesNotExist)$"))]
    pub operator: String,
    /// Values for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// A selector that the API server would refuse too.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidSelector {
    /// Not one of the four operators.
    #[error("operator {operator:?} of label {key:?} is none of In, NotIn, Exists, DoesNotExist")]
    Operator {
        /// The label's key.
        key: String,
        /// What was written.
        operator: String,
    },
    /// `In` and `NotIn` need values, the others take none.
    #[error("operator {operator} of label {key:?} {}", if *.needs { "needs values" } else { "takes no values" })]
    Values {
        /// The label's key.
        key: String,
        /// The operator.
        operator: String,
        /// Whether values are missing (or else too many).
        needs: bool,
    },
}

impl LabelSelector {
    /// Says what is wrong with it, if anything is.
    pub fn validate(&self) -> Result<(), InvalidSelector> {
        for requirement in &self.match_expressions {
            let needs = match requirement.operator.as_str() {
                "In" | "NotIn" => true,
                "Exists" | "DoesNotExist" => false,
                _ => {
                    return Err(InvalidSelector::Operator {
                        key: requirement.key.clone(),
                        operator: requirement.operator.clone(),
                    });
                }
            };
            if needs == requirement.values.is_empty() {
                return Err(InvalidSelector::Values {
                    key: requirement.key.clone(),
                    operator: requirement.operator.clone(),
                    needs,
                });
            }
        }
        Ok(())
    }

    /// Whether `labels` meet every requirement. An invalid selector matches
    /// nothing.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.validate().is_ok()
            && self
                .match_labels
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|requirement| requirement.matches(labels))
    }
}

impl LabelSelectorRequirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// Whether a list of selectors lets something through: an empty list stands
/// for "all", otherwise one match is enough.
pub fn any_or_empty(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_expressions: vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: values.iter().map(|v| (*v).to_owned()).collect(),
            }],
            ..LabelSelector::default()
        }
    }

    #[test]
    fn operators_follow_the_api_servers_rules() {
        let rack = labels(&[("rack", "a")]);
        assert!(expression("rack", "In", &["a", "b"]).matches(&rack));
        assert!(!expression("rack", "NotIn", &["a"]).matches(&rack));
        assert!(
            expression("zone", "NotIn", &["a"]).matches(&rack),
            "absent is not in"
        );
        assert!(expression("rack", "Exists", &[]).matches(&rack));
        assert!(expression("zone", "DoesNotExist", &[]).matches(&rack));
        assert!(
            LabelSelector::default().matches(&rack),
            "empty matches everything"
        );
    }

    #[test]
    fn a_selector_the_api_server_refuses_matches_nothing() {
        assert!(!expression("rack", "Near", &["a"]).matches(&labels(&[("rack", "a")])));
        assert_eq!(
            expression("rack", "In", &[])
                .validate()
                .unwrap_err()
                .to_string(),
            "operator In of label \"rack\" needs values"
        );
    }
}
