//! Labels of the API's objects.

use litemap::LiteMap;

/// `metadata.labels`, sorted by key. A thousand objects' labels are held at once, and
/// most have few: a tree takes half a KiB for the first.
pub type Labels = LiteMap<String, String>;
