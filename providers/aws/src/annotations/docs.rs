//! The annotations as a page of documentation.

use std::fmt::Write as _;

use super::table::{Annotation, HERALD_PREFIX, LBC_PREFIX, Prefixes, SECTIONS};

const HEAD: &str = "\
# Annotations of AWS load balancers

This page is made from the code by `herald-operator aws-annotations`; change
`providers/aws/src/annotations/table.rs` and run `make generate`.

They are annotations of the Service. Each name below stands behind the prefix
`service.beta.kubernetes.io/`, where manifests for the AWS Load Balancer Controller have
it, or behind `herald.dev/`; the meaning is the same. So
`service.beta.kubernetes.io/aws-load-balancer-scheme` is also
`herald.dev/aws-load-balancer-scheme`. Those under *Herald's own* have the prefix
`herald.dev/` only. An annotation with both prefixes and two different values is an error.

- A list has commas between its items, a map is `key=value` with commas between.
- An empty value is as if the annotation were not there.
- An annotation that is taken out, and a key that is taken out of a map, go back to the
  default.
- A value that can't be understood keeps the load balancer as it is; the condition
  `herald.dev/LoadBalancerReady` says what is wrong, all mistakes at once.
- An annotation that nobody knows has no effect; the condition `herald.dev/Warnings` and an
  event say so, with the name that was probably meant.
- `herald.dev/dry-run: \"true\"` writes what would be done to the condition and changes
  nothing.
";

/// The page, in Markdown.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for section in SECTIONS {
        let _ = writeln!(page, "\n## {}\n", section.title);
        let _ = writeln!(
            page,
            "| annotation | value | default | what it does | example |"
        );
        let _ = writeln!(page, "|---|---|---|---|---|");
        for annotation in section.annotations {
            let _ = writeln!(page, "{}", row(annotation));
        }
    }
    page
}

fn row(annotation: &Annotation) -> String {
    let prefix = match annotation.prefixes {
        Prefixes::Both => "",
        Prefixes::Herald => HERALD_PREFIX,
        Prefixes::Ignored => LBC_PREFIX,
    };
    format!(
        "| `{prefix}{}{}` | {} | {} | {} | `{}` |",
        annotation.suffix,
        annotation.parameter.placeholder(),
        annotation.kind.describe(),
        annotation.default,
        annotation.meaning,
        annotation.example,
    )
    .replace('\n', " ")
}
