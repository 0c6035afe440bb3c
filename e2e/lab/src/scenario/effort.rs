//! How much a bench does, where it lets itself be told.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::duration;

/// What was asked of benches on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct Effort {
    /// Rounds of what a bench measures in rounds, in the same lab.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// How long a bench measures that measures for a time (soak, idle).
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
    lasting: Option<Duration>,
    /// Only the parts of a bench whose figures begin so: crash/fast.
    #[arg(long, value_name = "FIGURE")]
    only: Option<String>,
}

impl Effort {
    /// How many rounds; `usual` unless told.
    pub fn rounds(&self, usual: u32) -> u32 {
        self.rounds.unwrap_or(usual)
    }

    /// How long; `usual` unless told.
    pub fn lasting(&self, usual: Duration) -> Duration {
        self.lasting.unwrap_or(usual)
    }

    /// Whether the part with these figures is wanted.
    pub fn wants(&self, figure: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| figure.starts_with(only.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_wanted_by_the_beginning_of_its_figures() {
        let effort = Effort {
            only: Some("crash/".into()),
            ..Effort::default()
        };
        assert!(effort.wants("crash/fast"));
        assert!(!effort.wants("link-cut/fast"));
        assert!(Effort::default().wants("link-cut/fast"));
    }
}
