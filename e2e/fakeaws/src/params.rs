//! What a caller says: the form of a Query call, read as a tree.
//!
//! ```text
//!   Action=CreateLoadBalancer&Name=web&Tags.member.1.Key=a&Tags.member.1.Value=b
//!     Name ── "web"
//!     Tags ── member ── 1 ─┬─ Key ── "a"
//!                          └─ Value ── "b"
//! ```
//!
//! Whoever reads a parameter marks it as read, and [`Params::finish`] refuses a
//! call with parameters that nobody read: what the fake does not know it never
//! passes over in silence.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// More names than any real parameter has between its dots.
const DEPTH: usize = 16;
/// More parameters than any real call has: 1,000 targets with 4 fields each.
const PARAMETERS: usize = 10_000;

/// One of the services that the fake speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Elastic Load Balancing, version 2015-12-01.
    Elbv2,
    /// EC2, version 2016-11-15.
    Ec2,
    /// Security Token Service, version 2011-06-15.
    Sts,
}

impl Service {
    /// The service of a name in a credential scope.
    pub fn from_scope(name: &str) -> Option<Self> {
        match name {
            "elasticloadbalancing" => Some(Self::Elbv2),
            "ec2" => Some(Self::Ec2),
            "sts" => Some(Self::Sts),
            _ => None,
        }
    }

    /// The service of a `Version` parameter.
    pub fn from_version(version: &str) -> Option<Self> {
        [Self::Elbv2, Self::Ec2, Self::Sts]
            .into_iter()
            .find(|service| service.version() == version)
    }

    /// Its name in credential scopes.
    pub const fn scope(self) -> &'static str {
        match self {
            Self::Elbv2 => "elasticloadbalancing",
            Self::Ec2 => "ec2",
            Self::Sts => "sts",
        }
    }

    /// The version of its API.
    pub const fn version(self) -> &'static str {
        match self {
            Self::Elbv2 => "2015-12-01",
            Self::Ec2 => "2016-11-15",
            Self::Sts => "2011-06-15",
        }
    }

    /// The namespace of its answers.
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::Elbv2 => "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/",
            Self::Ec2 => "http://ec2.amazonaws.com/doc/2016-11-15/",
            Self::Sts => "https://sts.amazonaws.com/doc/2011-06-15/",
        }
    }

    /// EC2 writes `Tag.1.Key`, the others `Tags.member.1.Key`.
    const fn has_members(self) -> bool {
        !matches!(self, Self::Ec2)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elbv2 => "elbv2",
            Self::Ec2 => "ec2",
            Self::Sts => "sts",
        })
    }
}

#[derive(Debug, Default)]
struct Node {
    value: Option<String>,
    used: AtomicBool,
    children: BTreeMap<String, Self>,
}

/// All parameters of a call.
#[derive(Debug)]
pub struct Form {
    root: Node,
    flat: BTreeMap<String, String>,
}

impl Form {
    /// Reads `application/x-www-form-urlencoded`. Any bytes will do: what is
    /// not UTF-8 is replaced. Refuses more parameters, or deeper ones, than any
    /// call has.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let mut root = Node::default();
        let mut flat = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(bytes) {
            if flat.len() >= PARAMETERS {
                return Err(malformed(format!("more than {PARAMETERS} parameters")));
            }
            let mut node = &mut root;
            for (depth, part) in name.split('.').enumerate() {
                if depth >= DEPTH {
                    return Err(malformed(format!("{name:?} has too many dots")));
                }
                node = node.children.entry(part.to_owned()).or_default();
            }
            if node.value.is_some() {
                return Err(malformed(format!("{name:?} is there twice")));
            }
            node.value = Some(value.clone().into_owned());
            flat.insert(name.into_owned(), value.into_owned());
        }
        Ok(Self { root, flat })
    }

    /// Every parameter by its whole name.
    pub const fn flat(&self) -> &BTreeMap<String, String> {
        &self.flat
    }

    /// One parameter by its whole name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.flat.get(name).map(String::as_str)
    }

    /// The tree, for an action of `service`.
    pub const fn params(&self, service: Service) -> Params<'_> {
        Params {
            node: &self.root,
            service,
            path: String::new(),
        }
    }
}

fn malformed(message: String) -> ApiError {
    ApiError::new("MalformedQueryString", message)
}

/// A tree of parameters, or a branch of it.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    node: &'a Node,
    service: Service,
    path: String,
}

impl<'a> Params<'a> {
    fn child(&self, name: &str) -> Option<&'a Node> {
        self.node.children.get(name)
    }

    fn name_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// The text of a parameter; an empty one counts as given.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let node = self.child(name)?;
        node.used.store(true, Ordering::Relaxed);
        node.value.as_deref()
    }

    /// The text of this branch itself, for lists of texts.
    pub fn value(&self) -> &'a str {
        self.node.used.store(true, Ordering::Relaxed);
        self.node.value.as_deref().unwrap_or_default()
    }

    /// The text of a parameter that must be there.
    pub fn required(&self, name: &str) -> Result<&'a str, ApiError> {
        self.text(name)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| self.missing(name))
    }

    /// What to answer when `name` is missing.
    pub fn missing(&self, name: &str) -> ApiError {
        let name = self.name_of(name);
        match self.service {
            Service::Ec2 => ApiError::new(
                "MissingParameter",
                format!("The request must contain the parameter {name}"),
            ),
            Service::Elbv2 | Service::Sts => ApiError::validation(format!(
                "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
            )),
        }
    }

    /// A parameter of any type that can be read from text.
    pub fn read<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.text(name)
            .map(|text| text.parse().map_err(|_| self.wrong(name, text)))
            .transpose()
    }

    /// What to answer when `name` is not what it must be.
    pub fn wrong(&self, name: &str, text: &str) -> ApiError {
        let name = self.name_of(name);
        match self.service {
            Service::Ec2 => {
                ApiError::value(format!("Value ({text}) for parameter {name} is invalid."))
            }
            Service::Elbv2 | Service::Sts => ApiError::validation(format!(
                "1 validation error detected: Value '{text}' at '{name}' is not valid"
            )),
        }
    }

    /// A structure, if any of its parameters is there.
    pub fn branch(&self, name: &str) -> Option<Self> {
        self.child(name).map(|node| self.at(node, name))
    }

    fn at(&self, node: &'a Node, name: &str) -> Self {
        Self {
            node,
            service: self.service,
            path: self.name_of(name),
        }
    }

    /// Whether a list or structure is mentioned at all, were it empty.
    pub fn has(&self, name: &str) -> bool {
        self.child(name).is_some()
    }

    /// A list, in the order of its numbers.
    pub fn list(&self, name: &str) -> Vec<Self> {
        let Some(list) = self.child(name) else {
            return Vec::new();
        };
        // An empty list travels as `Name=`.
        if list.value.as_deref() == Some("") {
            list.used.store(true, Ordering::Relaxed);
        }
        let (holder, path) = if self.service.has_members() {
            match list.children.get("member") {
                Some(members) => (members, format!("{name}.member")),
                None => return Vec::new(),
            }
        } else {
            (list, name.to_owned())
        };
        let mut numbered: Vec<(u32, &String, &Node)> = holder
            .children
            .iter()
            .filter_map(|(key, node)| Some((key.parse().ok()?, key, node)))
            .collect();
        numbered.sort_unstable_by_key(|(number, ..)| *number);
        numbered
            .into_iter()
            .map(|(_, key, node)| self.at(node, &format!("{path}.{key}")))
            .collect()
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.list(name)
            .iter()
            .map(|item| item.value().to_owned())
            .collect()
    }

    /// Refuses the call if it has parameters that nobody has read.
    pub fn finish(&self) -> Result<(), ApiError> {
        match unread(self.node, String::new()) {
            Some(name) => Err(ApiError::new(
                "UnknownParameter",
                format!("The parameter {name} is not recognized by this action of the stand-in"),
            )),
            None => Ok(()),
        }
    }
}

fn unread(node: &Node, path: String) -> Option<String> {
    if node.value.is_some() && !node.used.load(Ordering::Relaxed) {
        return Some(path);
    }
    node.children.iter().find_map(|(name, child)| {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        unread(child, path)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_ways_to_write_a_list_are_read() {
        let form = Form::parse(b"Names.member.10=c&Names.member.2=b&Names.member.1=a+b%2F&Empty=")
            .unwrap();
        let params = form.params(Service::Elbv2);
        assert_eq!(params.texts("Names"), ["a b/", "b", "c"]);
        assert!(params.texts("Empty").is_empty() && params.has("Empty"));
        params.finish().unwrap();

        let form = Form::parse(b"Tag.1.Key=k&Tag.1.Value=&Tag.2.Key=l").unwrap();
        let params = form.params(Service::Ec2);
        let tags = params.list("Tag");
        assert_eq!(tags[0].text("Key"), Some("k"));
        assert_eq!(tags[0].text("Value"), Some(""));
        assert_eq!(
            params.finish().unwrap_err().message,
            "The parameter Tag.2.Key is not recognized by this action of the stand-in"
        );
        assert_eq!(tags[1].text("Key"), Some("l"));
        params.finish().unwrap();
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_its_path() {
        let form = Form::parse(b"A.member.1.Port=x").unwrap();
        let params = form.params(Service::Elbv2);
        let item = &params.list("A")[0];
        let wrong = item.read::<u16>("Port").unwrap_err();
        assert!(
            wrong.message.contains("'x' at 'A.member.1.Port'"),
            "{wrong}"
        );
        assert_eq!(item.required("Key").unwrap_err().code, "ValidationError");
        let form = Form::parse(b"").unwrap();
        assert_eq!(
            form.params(Service::Ec2)
                .required("GroupId")
                .unwrap_err()
                .code,
            "MissingParameter"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Form::parse(b"A=1&A=2").is_err());
        assert!(Form::parse("a.".repeat(40).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(form) = Form::parse(&bytes) {
                for service in [Service::Elbv2, Service::Ec2] {
                    let params = form.params(service);
                    for name in form.flat().keys() {
                        let first = name.split('.').next().unwrap();
                        for item in params.list(first) {
                            let _ = item.value();
                        }
                        let _ = params.text(first);
                    }
                    let _ = params.finish();
                }
            }
        }
    }
}
