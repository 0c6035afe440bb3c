//! From a map of annotations to values of the kinds that the table gives.

use std::collections::BTreeMap;

use super::error::{InvalidAnnotation, InvalidAnnotations};
use super::table::{Annotation, HERALD_PREFIX, Kind, LBC_PREFIX, Parameter, Prefixes};

/// Longest piece of a value that an error repeats, in characters.
const QUOTED: usize = 80;

/// A listener's protocol and port, or a port alone (with no protocol).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortParameter {
    /// In capitals; empty where the annotation names a port only.
    pub protocol: String,
    /// 1 to 65535.
    pub port: u16,
}

#[derive(Clone, Debug)]
struct Found<'a> {
    key: &'a str,
    value: &'a str,
}

/// The annotations of one Service, sorted by what they are. Every value that is read
/// and is wrong is remembered.
pub struct Reader<'a> {
    plain: BTreeMap<&'static str, Found<'a>>,
    with_port: BTreeMap<(&'static str, PortParameter), Found<'a>>,
    errors: Vec<InvalidAnnotation>,
}

/// What an annotation's key says.
pub enum Recognized {
    /// One of the table's, and what follows its name.
    Known(&'static Annotation, Option<PortParameter>),
    /// One of the table's, with something wrong behind the dot.
    WrongParameter(&'static Annotation),
    /// None of the table's.
    Unknown,
}

/// Looks a key up in the table.
pub fn recognize(key: &str) -> Recognized {
    let (herald, rest) = if let Some(rest) = key.strip_prefix(HERALD_PREFIX) {
        (true, rest)
    } else if let Some(rest) = key.strip_prefix(LBC_PREFIX) {
        (false, rest)
    } else {
        return Recognized::Unknown;
    };
    for annotation in Annotation::all() {
        let read = match annotation.prefixes {
            Prefixes::Both => true,
            Prefixes::Herald => herald,
            Prefixes::Ignored => !herald,
        };
        if !read {
            continue;
        }
        match annotation.parameter {
            Parameter::None if rest == annotation.suffix => {
                return Recognized::Known(annotation, None);
            }
            Parameter::None => {}
            Parameter::Port | Parameter::ProtocolPort => {
                let Some(parameter) = rest
                    .strip_prefix(annotation.suffix)
                    .and_then(|rest| rest.strip_prefix('.'))
                else {
                    continue;
                };
                return match port_parameter(annotation.parameter, parameter) {
                    Some(parameter) => Recognized::Known(annotation, Some(parameter)),
                    None => Recognized::WrongParameter(annotation),
                };
            }
        }
    }
    Recognized::Unknown
}

fn port_parameter(kind: Parameter, text: &str) -> Option<PortParameter> {
    let (protocol, port) = match kind {
        Parameter::None => return None,
        Parameter::Port => ("", text),
        Parameter::ProtocolPort => text.rsplit_once('-')?,
    };
    let protocol = protocol.to_ascii_uppercase();
    let known = ["TCP", "UDP", "TCP_UDP", "TLS", "QUIC", "TCP_QUIC"];
    if kind == Parameter::ProtocolPort && !known.contains(&protocol.as_str()) {
        return None;
    }
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some(PortParameter { protocol, port })
}

impl<'a> Reader<'a> {
    /// Sorts annotations. Empty values are as if they were not there.
    pub fn new(annotations: &'a BTreeMap<String, String>) -> Self {
        let mut reader = Self {
            plain: BTreeMap::new(),
            with_port: BTreeMap::new(),
            errors: Vec::new(),
        };
        for (key, value) in annotations {
            let found = Found {
                key,
                value: value.trim(),
            };
            if found.value.is_empty() {
                continue;
            }
            match recognize(key) {
                Recognized::Known(annotation, _) if annotation.prefixes == Prefixes::Ignored => {}
                Recognized::Known(annotation, None) => {
                    put(
                        &mut reader.plain,
                        annotation.suffix,
                        found,
                        &mut reader.errors,
                    );
                }
                Recognized::Known(annotation, Some(parameter)) => {
                    let name = (annotation.suffix, parameter);
                    put(&mut reader.with_port, name, found, &mut reader.errors);
                }
                Recognized::WrongParameter(annotation) => {
                    let must = match annotation.parameter {
                        Parameter::Port => "a dot and a port, such as .80",
                        _ => "a dot, the listener's protocol and its port, such as .TCP-80",
                    };
                    reader.errors.push(InvalidAnnotation::Parameter {
                        key: key.clone(),
                        must,
                    });
                }
                Recognized::Unknown => {}
            }
        }
        reader
    }

    /// What was wrong, if anything was.
    pub fn finish(self) -> Result<(), InvalidAnnotations> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(InvalidAnnotations(self.errors))
        }
    }

    /// The annotation as the user wrote it, for messages.
    pub fn key(&self, annotation: &Annotation) -> String {
        self.plain.get(annotation.suffix).map_or_else(
            || format!("{HERALD_PREFIX}{}", annotation.suffix),
            |f| f.key.to_owned(),
        )
    }

    /// Remembers that an annotation asks for something that can't be.
    pub fn conflict(&mut self, annotation: &Annotation, problem: impl Into<String>) {
        let key = self.key(annotation);
        self.errors.push(InvalidAnnotation::Conflict {
            key,
            problem: problem.into(),
        });
    }

    /// The value as text.
    pub fn text(&self, annotation: &Annotation) -> Option<&'a str> {
        self.plain.get(annotation.suffix).map(|found| found.value)
    }

    /// A value of kind [`Kind::Bool`] or [`Kind::OnOff`].
    pub fn flag(&mut self, annotation: &Annotation) -> Option<bool> {
        let found = self.plain.get(annotation.suffix)?.clone();
        let (value, must) = match annotation.kind {
            Kind::OnOff => (on_off(found.value), "\"on\" or \"off\""),
            _ => (boolean(found.value), "\"true\" or \"false\""),
        };
        if value.is_none() {
            self.wrong(&found, must);
        }
        value
    }

    /// The place of the value among the words of [`Kind::OneOf`] and
    /// [`Kind::OneOfAnyCase`].
    pub fn word(&mut self, annotation: &Annotation) -> Option<&'static str> {
        let found = self.plain.get(annotation.suffix)?.clone();
        let (words, any_case): (&[&str], _) = match annotation.kind {
            Kind::OneOf(words) => (words, false),
            Kind::OneOfAnyCase(words) => (words, true),
            _ => (&[], false),
        };
        let word = words.iter().copied().find(|word| {
            *word == found.value || any_case && word.eq_ignore_ascii_case(found.value)
        });
        if word.is_none() {
            self.wrong(&found, &one_of(words));
        }
        word
    }

    /// A value of kind [`Kind::Integer`].
    pub fn number(&mut self, annotation: &Annotation) -> Option<u32> {
        let found = self.plain.get(annotation.suffix)?.clone();
        let Kind::Integer(least, most) = annotation.kind else {
            return None;
        };
        let number = found
            .value
            .parse()
            .ok()
            .filter(|n| (least..=most).contains(n));
        if number.is_none() {
            self.wrong(&found, &format!("a whole number from {least} to {most}"));
        }
        number
    }

    /// A value of kind [`Kind::List`], without empty items.
    pub fn list(&self, annotation: &Annotation) -> Vec<String> {
        self.plain
            .get(annotation.suffix)
            .map_or_else(Vec::new, |found| list(found.value))
    }

    /// The same, with each item parsed; `must` says what they must be.
    pub fn items<T>(
        &mut self,
        annotation: &Annotation,
        must: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let Some(found) = self.plain.get(annotation.suffix).cloned() else {
            return Vec::new();
        };
        let items: Option<Vec<T>> = list(found.value).iter().map(|item| parse(item)).collect();
        items.unwrap_or_else(|| {
            self.wrong(&found, must);
            Vec::new()
        })
    }

    /// A value of kind [`Kind::Map`].
    pub fn map(&mut self, annotation: &Annotation) -> BTreeMap<String, String> {
        match self.plain.get(annotation.suffix).cloned() {
            Some(found) => self.map_of(&found),
            None => BTreeMap::new(),
        }
    }

    /// Values of kind [`Kind::Map`] by port.
    pub fn maps(
        &mut self,
        annotation: &Annotation,
    ) -> BTreeMap<PortParameter, BTreeMap<String, String>> {
        self.by_port(annotation)
            .into_iter()
            .map(|(parameter, found)| (parameter, self.map_of(&found)))
            .collect()
    }

    /// Values that `parse` understands, by port, with the annotation as written; what
    /// it does not understand it says in a few words.
    pub fn parsed<T>(
        &mut self,
        annotation: &Annotation,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> BTreeMap<PortParameter, T> {
        let mut values = BTreeMap::new();
        for (parameter, found) in self.by_port(annotation) {
            match parse(found.value) {
                Ok(value) => {
                    values.insert(parameter, value);
                }
                Err(problem) => self.errors.push(InvalidAnnotation::Conflict {
                    key: found.key.to_owned(),
                    problem,
                }),
            }
        }
        values
    }

    fn by_port(&self, annotation: &Annotation) -> Vec<(PortParameter, Found<'a>)> {
        self.with_port
            .iter()
            .filter(|((suffix, _), _)| *suffix == annotation.suffix)
            .map(|((_, parameter), found)| (parameter.clone(), found.clone()))
            .collect()
    }

    fn map_of(&mut self, found: &Found<'_>) -> BTreeMap<String, String> {
        pairs(found.value).unwrap_or_else(|| {
            self.wrong(
                found,
                "key=value pairs with commas between them, each key once",
            );
            BTreeMap::new()
        })
    }

    fn wrong(&mut self, found: &Found<'_>, must: &str) {
        let mut value: String = found.value.chars().take(QUOTED).collect();
        if value.len() < found.value.len() {
            value.push('…');
        }
        self.errors.push(InvalidAnnotation::Value {
            key: found.key.to_owned(),
            value,
            must: must.to_owned(),
        });
    }
}

fn put<'a, K: Ord>(
    among: &mut BTreeMap<K, Found<'a>>,
    name: K,
    found: Found<'a>,
    errors: &mut Vec<InvalidAnnotation>,
) {
    match among.get(&name) {
        Some(other) if other.value != found.value => errors.push(InvalidAnnotation::Disagree {
            first: other.key.to_owned(),
            second: found.key.to_owned(),
        }),
        Some(_) => {}
        None => {
            among.insert(name, found);
        }
    }
}

/// `"a", "b" or "c"`.
fn one_of(words: &[&str]) -> String {
    match words {
        [] => "left out".to_owned(),
        [word] => format!("{word:?}"),
        [most @ .., last] => {
            let most: Vec<String> = most.iter().map(|word| format!("{word:?}")).collect();
            format!("{} or {last:?}", most.join(", "))
        }
    }
}

/// As the AWS Load Balancer Controller reads it.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn on_off(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `key=value` pairs; none if one of them is not, or a key comes twice with different
/// values.
fn pairs(text: &str) -> Option<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let (key, value) = item.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return None;
        }
        let before = map.insert(key.to_owned(), value.to_owned());
        if before.is_some_and(|before| before != value) {
            return None;
        }
    }
    Some(map)
}
