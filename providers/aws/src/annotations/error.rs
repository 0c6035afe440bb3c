//! What is wrong with a Service's annotations.

use std::fmt;

use thiserror::Error;

/// An annotation that can't be understood, or two that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidAnnotation {
    /// Its value is not what it must be.
    #[error("annotation {key} is {value:?}; it must be {must}")]
    Value {
        /// The annotation as written.
        key: String,
        /// Its value, cut where it is long.
        value: String,
        /// What it must be.
        must: String,
    },
    /// What follows its name is not a port, or not a protocol and a port.
    #[error("annotation {key} must end with {must}")]
    Parameter {
        /// The annotation as written.
        key: String,
        /// What it must end with.
        must: &'static str,
    },
    /// Both prefixes, or one parameter written in two ways, with different values.
    #[error("annotations {first} and {second} disagree; keep one of them")]
    Disagree {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// It asks for something that another annotation or the Service rules out.
    #[error("annotation {key}: {problem}")]
    Conflict {
        /// The annotation as written, or its name with Herald's prefix.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// All that is wrong with a Service's annotations, so that they can be mended at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidAnnotations(pub Vec<InvalidAnnotation>);

impl fmt::Display for InvalidAnnotations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidAnnotations {}
