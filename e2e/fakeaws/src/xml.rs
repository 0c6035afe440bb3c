//! Writes the XML of answers.

use std::fmt::{Display, Write};

/// A document in the making. Elements are written in the order of the calls.
#[derive(Debug)]
pub struct Xml(String);

impl Xml {
    /// A document with its declaration.
    pub fn document() -> Self {
        Self("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".into())
    }

    /// The inside of an element, which somebody else wraps.
    pub const fn fragment() -> Self {
        Self(String::new())
    }

    /// The outermost element, with its namespace.
    pub fn root(
        &mut self,
        name: &str,
        namespace: &str,
        inside: impl FnOnce(&mut Self),
    ) -> &mut Self {
        // Writing to a string can't fail.
        let _ = write!(self.0, "<{name} xmlns=\"{namespace}\">");
        inside(self);
        let _ = write!(self.0, "</{name}>");
        self
    }

    /// An element with elements in it.
    pub fn node(&mut self, name: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.0, "<{name}>");
        inside(self);
        let _ = write!(self.0, "</{name}>");
        self
    }

    /// An element with text in it.
    pub fn text(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.node(name, |x| x.escape(&value.to_string()))
    }

    /// An element with text in it, if there is any.
    pub fn maybe(&mut self, name: &str, value: Option<impl Display>) -> &mut Self {
        if let Some(value) = value {
            self.text(name, value);
        }
        self
    }

    /// A list as ELB and STS write it: `<name><member>…</member></name>`.
    pub fn members<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        inside: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.list(name, "member", items, inside)
    }

    /// A list as EC2 writes it: `<name><item>…</item></name>`.
    pub fn items<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        inside: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.list(name, "item", items, inside)
    }

    fn list<T>(
        &mut self,
        name: &str,
        each: &str,
        items: impl IntoIterator<Item = T>,
        mut inside: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.node(name, |x| {
            for item in items {
                x.node(each, |x| inside(x, item));
            }
        })
    }

    /// A list of plain texts as ELB writes it.
    pub fn member_texts<T: Display>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
    ) -> &mut Self {
        self.members(name, items, |x, item| x.escape(&item.to_string()))
    }

    /// Puts in what another hand has written.
    pub fn raw(&mut self, other: &Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    fn escape(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                // What XML 1.0 section 2.2 lets stand.
                '\t'
                | '\n'
                | '\r'
                | '\u{20}'..='\u{d7ff}'
                | '\u{e000}'..='\u{fffd}'
                | '\u{10000}'.. => self.0.push(c),
                _ => self.0.push('\u{fffd}'),
            }
        }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_control_characters_go() {
        let mut xml = Xml::fragment();
        xml.text("a", "<&\">\u{1}ö")
            .maybe("b", None::<u8>)
            .member_texts("c", [1, 2])
            .items("d", [3], |x, item| {
                x.text("e", item);
            });
        assert_eq!(
            xml.finish(),
            "<a>&lt;&amp;&quot;&gt;\u{fffd}ö</a><c><member>1</member><member>2</member></c><d><item><e>3</e></item></d>"
        );
    }
}
