//! docs/reference.md: every field of every kind, from the custom resource
//! definitions that the types make.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

/// The page, in Markdown.
pub(crate) fn markdown(kinds: &[CustomResourceDefinition]) -> String {
    let mut page = String::from(
        "# Every field of every kind\n\n\
         Made from the code by `make generate`; the API server checks what stands here. The \
         group is `herald.dev`, the version `v1alpha1`, and the objects are in Herald's \
         namespace. [The guide](guide.md) says how they go together.\n",
    );
    for kind in kinds {
        // Writing to a String does not fail.
        let _ = write!(page, "\n## {}\n", kind.spec.names.kind);
        let Some(schema) = schema(kind) else { continue };
        if let Some(text) = schema["description"].as_str() {
            let _ = write!(page, "\n{}\n", line(text));
        }
        page.push_str("\n| field | type | default | |\n|---|---|---|---|\n");
        for part in ["spec", "status"] {
            fields(&mut page, part, &schema["properties"][part]);
        }
        for (path, rule) in rules("", &schema) {
            let _ = write!(page, "\nChecked of `{path}`: {}.\n", line(&rule));
        }
    }
    page
}

fn schema(kind: &CustomResourceDefinition) -> Option<Value> {
    let version = kind.spec.versions.first()?;
    let schema = version.schema.as_ref()?.open_api_v3_schema.as_ref()?;
    serde_json::to_value(schema).ok()
}

/// A row for each field below `path`.
fn fields(page: &mut String, path: &str, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    let required = |name: &str| {
        let names = schema["required"].as_array();
        names.is_some_and(|names| names.iter().any(|required| required == name))
    };
    for (name, field) in properties {
        let default = if required(name) {
            "required".to_owned()
        } else {
            let default = field.get("default").filter(|value| is_scalar(value));
            default.map_or_else(String::new, |value| format!("`{value}`"))
        };
        let text = field["description"].as_str().unwrap_or_default();
        let inner = if field["type"] == "array" {
            &field["items"]
        } else {
            field
        };
        let suffix = if field["type"] == "array" { "[]" } else { "" };
        let path = format!("{path}.{name}{suffix}");
        let _ = writeln!(
            page,
            "| `{path}` | {} | {default} | {} |",
            type_of(field),
            line(text).replace('|', "\\|")
        );
        fields(page, &path, inner);
    }
}

const fn is_scalar(value: &Value) -> bool {
    matches!(value, Value::Bool(_) | Value::Number(_) | Value::String(_))
}

/// The type with its bounds: `integer, 1 to 100`.
fn type_of(field: &Value) -> String {
    let kind = field["type"].as_str().unwrap_or("object");
    if kind == "array" {
        return format!("list of {}", type_of(&field["items"]));
    }
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .filter(|value| !value.is_null())
            .map(|value| format!("`{}`", value.as_str().unwrap_or_default()))
            .collect();
        return values.join(", ");
    }
    if field["additionalProperties"].is_object() {
        return "map".to_owned();
    }
    let bound = |name: &str| field[name].as_f64().map(|bound| format!("{bound}"));
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!("{kind}, {least} to {most}"),
        (Some(least), None) => format!("{kind}, from {least}"),
        (None, Some(most)) => format!("{kind}, to {most}"),
        (None, None) => kind.to_owned(),
    }
}

/// Messages of the CEL rules, with the field that each is about.
fn rules(path: &str, schema: &Value) -> Vec<(String, String)> {
    let own = schema["x-kubernetes-validations"].as_array();
    let mut found: Vec<(String, String)> = own
        .into_iter()
        .flatten()
        .filter_map(|rule| Some((path.to_owned(), rule["message"].as_str()?.to_owned())))
        .collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        found.extend(rules(&path, field));
        found.extend(rules(&format!("{path}[]"), &field["items"]));
    }
    found
}

/// A text of several lines as one.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use herald_api::{IPAddressPool, L2Advertisement};
    use kube::CustomResourceExt as _;

    use super::*;

    #[test]
    fn fields_have_their_types_defaults_and_words() {
        let page = markdown(&[IPAddressPool::crd(), L2Advertisement::crd()]);
        assert!(
            page.contains("| `spec.addresses[]` | list of string | required |"),
            "{page}"
        );
        assert!(
            page.contains("| `spec.autoAssign` | boolean | `true` |"),
            "{page}"
        );
        assert!(page.contains("`spec.preferredNodeSelectors[].weight` | integer, 1 to 100 |"));
        assert!(page.contains("Checked of `spec.addresses`: a CIDR must have no host bits"));
    }
}
