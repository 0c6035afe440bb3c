//! What came of the cases: verdicts, figures, and the lines that sum them up.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured: `scenario/case`.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit: `ms`, `probes`, `MiB`.
    pub unit: String,
    /// Whether it is a figure by itself, with a statistic in its name or none;
    /// of several rounds the median is told.
    #[serde(default)]
    pub whole: bool,
}

/// What the samples of one name say together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// `scenario/case/statistic`.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit: `ms`, `probes`, `MiB`.
    pub unit: String,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough digits to tell, none that only look exact.
        let value = if self.value.fract() == 0.0 {
            format!("{:.0}", self.value)
        } else if self.value.abs() < 10.0 {
            format!("{:.2}", self.value)
        } else {
            format!("{:.1}", self.value)
        };
        write!(f, "figure {} {value} {}", self.name, self.unit)
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "why", rename_all = "lowercase")]
pub enum Verdict {
    /// Everything was as it should be.
    Passed,
    /// Something was not; the text names it.
    Failed(String),
    /// It could not be run here; the text says why.
    Skipped(String),
}

/// One case and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its label: the scenario's name, and the kube-proxy mode or the round
    /// where that is not the usual one.
    pub case: String,
    /// How it ended.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// How long it took, in seconds, without the lab's start.
    pub seconds: f64,
    /// What it measured.
    pub samples: Vec<Sample>,
    /// Where its logs were kept.
    pub logs: Option<PathBuf>,
}

/// Everything that a run has to say at its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// All cases, in the order of the list.
    pub outcomes: Vec<Outcome>,
}

impl Summary {
    /// How many passed, failed and were skipped.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |matches: fn(&Verdict) -> bool| {
            self.outcomes
                .iter()
                .filter(|outcome| matches(&outcome.verdict))
                .count()
        };
        (
            count(|verdict| matches!(verdict, Verdict::Passed)),
            count(|verdict| matches!(verdict, Verdict::Failed(_))),
            count(|verdict| matches!(verdict, Verdict::Skipped(_))),
        )
    }

    /// What was measured: for each name the largest sample, and the median
    /// where there are several.
    pub fn figures(&self) -> Vec<Figure> {
        let mut names: Vec<(&Sample, Vec<f64>)> = Vec::new();
        for sample in self.outcomes.iter().flat_map(|outcome| &outcome.samples) {
            match names
                .iter_mut()
                .find(|(known, _)| known.name == sample.name)
            {
                Some((_, values)) => values.push(sample.value),
                None => names.push((sample, vec![sample.value])),
            }
        }
        let mut figures = Vec::new();
        for (sample, mut values) in names {
            let (name, unit) = (&sample.name, &sample.unit);
            values.sort_by(f64::total_cmp);
            if sample.whole {
                figures.push(Figure {
                    name: name.clone(),
                    value: values[values.len() / 2],
                    unit: unit.clone(),
                });
                continue;
            }
            let figure = |statistic: &str, value: f64| Figure {
                name: format!("{name}/{statistic}"),
                value,
                unit: unit.clone(),
            };
            if values.len() > 1 {
                // Of an even number the upper one: no value that nobody saw.
                figures.push(figure("median", values[values.len() / 2]));
            }
            figures.extend(values.last().map(|max| figure("max", *max)));
        }
        figures
    }

    /// Whether nothing failed and something passed: a run in which all was
    /// skipped proved nothing.
    pub fn is_success(&self) -> bool {
        let (passed, failed, _) = self.counts();
        failed == 0 && passed > 0
    }
}

impl fmt::Display for Summary {
    /// Figures, a table of the cases, and the closing line
    /// `N passed, N failed, N skipped`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for figure in self.figures() {
            writeln!(f, "{figure}")?;
        }
        let width = self
            .outcomes
            .iter()
            .map(|outcome| outcome.case.len())
            .max()
            .unwrap_or_default();
        writeln!(f)?;
        for outcome in &self.outcomes {
            let (word, why) = match &outcome.verdict {
                Verdict::Passed => ("passed", ""),
                Verdict::Failed(why) => ("FAILED", why.as_str()),
                Verdict::Skipped(why) => ("skipped", why.as_str()),
            };
            let time = match outcome.verdict {
                Verdict::Skipped(_) => String::new(),
                _ => format!("{:.1}s", outcome.seconds),
            };
            // The reason's first line: the whole was told when it happened.
            let why = why.lines().next().unwrap_or_default();
            let line = format!("{word:<8} {:<width$} {time:>7}  {why}", outcome.case);
            writeln!(f, "{}", line.trim_end())?;
            if let (Verdict::Failed(_), Some(logs)) = (&outcome.verdict, &outcome.logs) {
                writeln!(f, "         logs: {}", logs.display())?;
            }
        }
        let (passed, failed, skipped) = self.counts();
        writeln!(f)?;
        writeln!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(case: &str, verdict: Verdict) -> Outcome {
        Outcome {
            case: case.into(),
            verdict,
            seconds: 1.25,
            samples: Vec::new(),
            logs: Some("target/herald-lab/x".into()),
        }
    }

    #[test]
    fn the_closing_line_stands_alone_and_reasons_are_in_the_table() {
        let summary = Summary {
            outcomes: vec![
                Outcome {
                    samples: samples(&[2310.0]),
                    ..outcome("node-crash", Verdict::Passed)
                },
                outcome("expose", Verdict::Failed("no answer\nlog".into())),
                outcome("expose (ipvs)", Verdict::Skipped("no qemu".into())),
            ],
        };
        assert_eq!(
            summary.to_string(),
            "figure node-crash/gap/max 2310 ms\n\
             \n\
             passed   node-crash       1.2s\n\
             FAILED   expose           1.2s  no answer\n         \
                                                     logs: target/herald-lab/x\n\
             skipped  expose (ipvs)          no qemu\n\
             \n\
             1 passed, 1 failed, 1 skipped\n"
        );
        assert!(!summary.is_success());
    }

    fn samples(values: &[f64]) -> Vec<Sample> {
        values
            .iter()
            .map(|value| Sample {
                name: "node-crash/gap".into(),
                value: *value,
                unit: "ms".into(),
                whole: false,
            })
            .collect()
    }

    #[test]
    fn samples_of_all_rounds_make_one_figure() {
        let summary = Summary {
            outcomes: vec![
                Outcome {
                    samples: samples(&[5.0, 1.0]),
                    ..outcome("node-crash", Verdict::Passed)
                },
                Outcome {
                    samples: samples(&[3.0]),
                    ..outcome("node-crash #2", Verdict::Passed)
                },
            ],
        };
        let lines: Vec<String> = summary.figures().iter().map(Figure::to_string).collect();
        assert_eq!(
            lines,
            [
                "figure node-crash/gap/median 3 ms",
                "figure node-crash/gap/max 5 ms"
            ]
        );
    }

    #[test]
    fn a_sample_that_is_a_figure_keeps_its_name_and_its_median_is_told() {
        let whole = |value| Sample {
            name: "arp-rate/1/ratio".into(),
            value,
            unit: "of-kernel".into(),
            whole: true,
        };
        let summary = Summary {
            outcomes: vec![Outcome {
                samples: [0.5, 0.875, 1.0].map(whole).into(),
                ..outcome("arp-rate", Verdict::Passed)
            }],
        };
        let lines: Vec<String> = summary.figures().iter().map(Figure::to_string).collect();
        assert_eq!(lines, ["figure arp-rate/1/ratio 0.88 of-kernel"]);
    }

    #[test]
    fn a_run_in_which_all_was_skipped_is_no_success() {
        let summary = Summary {
            outcomes: vec![outcome("a", Verdict::Skipped("no qemu".into()))],
        };
        assert!(!summary.is_success());
    }

    #[test]
    fn figures_have_no_digits_that_only_look_exact() {
        let figure = |value| Figure {
            name: "a/b/c".into(),
            value,
            unit: "ms".into(),
        };
        assert_eq!(figure(12.0).to_string(), "figure a/b/c 12 ms");
        assert_eq!(figure(12.345).to_string(), "figure a/b/c 12.3 ms");
    }
}
