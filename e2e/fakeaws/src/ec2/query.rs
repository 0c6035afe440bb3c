//! What all of EC2's describes have in common: ids, filters, pages.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::error::ApiError;
use crate::model::Tags;
use crate::params::Params;
use crate::xml::Xml;

/// A filter: its name, and patterns of which one must match.
#[derive(Clone, Debug)]
struct Filter {
    name: String,
    patterns: Vec<String>,
}

/// What a describe asks for.
#[derive(Debug)]
pub struct Query {
    ids: Vec<String>,
    filters: Vec<Filter>,
    max_results: Option<usize>,
    start: usize,
}

/// What a thing has for a filter.
#[derive(Debug)]
pub enum Fact {
    /// There is no such filter.
    Unknown,
    /// One of these must match.
    Values(Vec<String>),
}

impl Fact {
    /// One value.
    pub fn one(value: &impl ToString) -> Self {
        Self::all([value])
    }

    /// Any number of values.
    pub fn all<'a, T: ToString + 'a>(values: impl IntoIterator<Item = &'a T>) -> Self {
        Self::Values(values.into_iter().map(ToString::to_string).collect())
    }
}

/// How a describe is limited.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    /// The least `MaxResults`.
    pub min: usize,
    /// The greatest `MaxResults`.
    pub max: usize,
}

impl Paging {
    /// What most of them have.
    pub const USUAL: Self = Self { min: 5, max: 1000 };
}

impl Query {
    /// Reads `IDS.N`, `Filter.N`, `MaxResults` and `NextToken`. Without
    /// `paging` the action has no pages.
    pub fn read(p: &Params<'_>, ids: &str, paging: Option<Paging>) -> Result<Self, ApiError> {
        let mut filters = Vec::new();
        for filter in p.list("Filter") {
            let name = filter.required("Name")?.to_owned();
            let patterns = filter.texts("Value");
            if patterns.is_empty() {
                return Err(ApiError::value(format!(
                    "The filter '{name}' has no values"
                )));
            }
            filters.push(Filter { name, patterns });
        }
        let ids = p.texts(ids);
        let (mut max_results, mut start) = (None, 0);
        if let Some(Paging { min, max }) = paging {
            max_results = p.read::<usize>("MaxResults")?;
            if let Some(asked) = max_results {
                if !(min..=max).contains(&asked) {
                    return Err(ApiError::value(format!(
                        "Value ( {asked} ) for parameter maxResults is invalid. Expecting a value between {min} and {max}."
                    )));
                }
                if !ids.is_empty() {
                    return Err(ApiError::new(
                        "InvalidParameterCombination",
                        "The parameter MaxResults cannot be used with the parameter for ids",
                    ));
                }
            }
            if let Some(token) = p.text("NextToken") {
                start = usize::from_str(token).map_err(|_| {
                    ApiError::value(format!("Invalid value '{token}' for nextToken"))
                })?;
            }
        }
        Ok(Self {
            ids,
            filters,
            max_results,
            start,
        })
    }

    /// The page of what matches. `fact` says what a thing has for a filter;
    /// `not_found` is the code for ids that nothing has.
    pub fn page<'a, T>(
        &self,
        things: impl IntoIterator<Item = &'a T>,
        id: impl Fn(&T) -> &str,
        not_found: (&str, &str),
        fact: impl Fn(&T, &str) -> Fact,
    ) -> Result<Page<'a, T>, ApiError> {
        let mut missing: BTreeSet<&str> = self.ids.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        for thing in things {
            if !self.ids.is_empty() && !self.ids.iter().any(|asked| asked == id(thing)) {
                continue;
            }
            missing.remove(id(thing));
            let mut matches = true;
            for filter in &self.filters {
                let Fact::Values(values) = fact(thing, &filter.name) else {
                    return Err(filter.unknown());
                };
                matches &= values
                    .iter()
                    .any(|value| filter.patterns.iter().any(|pattern| glob(pattern, value)));
            }
            if matches {
                found.push(thing);
            }
        }
        if let Some(missing) = missing.first() {
            let (code, what) = not_found;
            return Err(ApiError::new(
                code,
                format!("The {what} ID '{missing}' does not exist"),
            ));
        }
        let end = self
            .max_results
            .map_or(found.len(), |max| (self.start + max).min(found.len()));
        let next = (end < found.len()).then(|| end.to_string());
        let items = found.get(self.start..end).unwrap_or_default().to_vec();
        Ok(Page { items, next })
    }

    /// Refuses filters that no thing would know, for when there is no thing.
    pub fn check(&self, known: impl Fn(&str) -> bool) -> Result<(), ApiError> {
        match self.filters.iter().find(|filter| !known(&filter.name)) {
            Some(filter) => Err(filter.unknown()),
            None => Ok(()),
        }
    }
}

impl Filter {
    fn unknown(&self) -> ApiError {
        ApiError::value(format!("The filter '{}' is invalid", self.name))
    }
}

/// A page.
#[derive(Debug)]
pub struct Page<'a, T> {
    /// What is on it.
    pub items: Vec<&'a T>,
    next: Option<String>,
}

impl<T> Page<'_, T> {
    /// Writes it as a list.
    pub fn write(&self, xml: &mut Xml, name: &str, mut each: impl FnMut(&mut Xml, &T)) {
        xml.items(name, self.items.iter(), |x, item| each(x, item));
        self.write_token(xml);
    }

    /// Writes where the next page begins.
    pub fn write_token(&self, xml: &mut Xml) {
        xml.maybe("nextToken", self.next.as_deref());
    }
}

/// What tags have for a filter: `tag:KEY` and `tag-key`.
pub fn tag_fact(tags: &Tags, filter: &str) -> Fact {
    if filter == "tag-key" {
        return Fact::all(tags.keys());
    }
    match filter.strip_prefix("tag:") {
        Some(key) => Fact::all(tags.get(key)),
        None => Fact::Unknown,
    }
}

/// Writes tags.
pub fn write_tags(xml: &mut Xml, tags: &Tags) {
    xml.items("tagSet", tags, |x, (key, value)| {
        x.text("key", key).text("value", value);
    });
}

/// Whether a pattern matches: `*` stands for any text, `?` for any character,
/// `\` takes the next one as it is.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last `*` does not match.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        let advance = match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('\\') if pattern.get(p + 1) == Some(&text[t]) => Some(2),
            Some(c) if *c == text[t] => Some(1),
            _ => None,
        };
        match (advance, &mut retry) {
            (Some(by), _) => {
                p += by;
                t += 1;
            }
            (None, Some((after, at))) => {
                *at += 1;
                p = *after;
                t = *at;
            }
            (None, None) => return false,
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_ec2_says() {
        for (pattern, text, matches) in [
            ("web", "web", true),
            ("web", "webs", false),
            ("*", "", true),
            ("w*b", "wb", true),
            ("w*b*", "weeb!", true),
            ("*ab", "aab", true),
            ("w?b", "web", true),
            ("w?b", "wb", false),
            ("w\\*b", "w*b", true),
            ("w\\*b", "wxb", false),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_ends_and_the_text_itself_matches(pattern in "[ab*?\\\\]{0,12}", text in "[ab]{0,12}") {
            let _ = glob(&pattern, &text);
            prop_assert!(glob(&text, &text));
            let around = format!("*{text}*");
            prop_assert!(glob(&around, &text));
        }
    }
}
