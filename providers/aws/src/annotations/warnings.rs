//! What is odd about a Service's annotations, although it is served.

use herald_core::ServiceRequest;
use herald_provider::Warning;

use super::Annotations;
use super::reader::{Recognized, recognize};
use super::table::{Annotation, HERALD_PREFIX, LBC_PREFIX, Parameter, Prefixes};

/// A name less like every known one than this gets no suggestion.
const LIKE: f64 = 0.8;
/// The same for names that may be another controller's.
const VERY_LIKE: f64 = 0.9;
/// Prefix that people write instead of [`LBC_PREFIX`].
const MISTAKEN_PREFIX: &str = "service.kubernetes.io/";

/// What has no effect, and what was probably meant.
pub fn warnings(service: &ServiceRequest) -> Vec<Warning> {
    let of_keys = service
        .annotations
        .keys()
        .filter_map(|key| of(key, service));
    of_keys.chain(open_to_all(service)).collect()
}

/// Source ranges that nothing enforces are worse than none: people rely on them.
fn open_to_all(service: &ServiceRequest) -> Option<Warning> {
    let annotations = Annotations::parse(&service.annotations).ok()?;
    let ranges = !service.source_ranges.is_empty()
        || !annotations.source_ranges.is_empty()
        || !annotations.prefix_lists.is_empty();
    let unmanaged = annotations.without_security_group || !annotations.security_groups.is_empty();
    (ranges && unmanaged).then(|| Warning {
        reason: "SourceRangesNotEnforced",
        message: "source ranges and prefix lists are kept in a security group of Herald's, and \
                  the Service asks for its own or for none: they have no effect; write them into \
                  your own security groups"
            .to_owned(),
    })
}

fn of(key: &str, service: &ServiceRequest) -> Option<Warning> {
    match recognize(key) {
        Recognized::Known(annotation, _) if annotation.prefixes == Prefixes::Ignored => {
            Some(Warning {
                reason: "AnnotationWithoutEffect",
                message: format!("annotation {key} has no effect: {}", annotation.meaning),
            })
        }
        Recognized::Known(_, Some(parameter)) => {
            let known = service.ports.iter().any(|port| port.port == parameter.port);
            (!known).then(|| Warning {
                reason: "AnnotationWithoutEffect",
                message: format!(
                    "annotation {key} has no effect: the Service has no port {}",
                    parameter.port
                ),
            })
        }
        Recognized::Known(_, None) | Recognized::WrongParameter(_) => None,
        Recognized::Unknown => unknown(key),
    }
}

/// An annotation of nobody's that was probably meant for us.
fn unknown(key: &str) -> Option<Warning> {
    let (ours, rest) = if let Some(rest) = key.strip_prefix(HERALD_PREFIX) {
        (rest.starts_with("aws-"), rest)
    } else if let Some(rest) = key.strip_prefix(LBC_PREFIX) {
        (rest.starts_with("aws-"), rest)
    } else {
        (false, key.strip_prefix(MISTAKEN_PREFIX)?)
    };
    let nearest = nearest(rest, if ours { LIKE } else { VERY_LIKE });
    if !ours && nearest.is_none() {
        return None;
    }
    let hint = nearest.map_or_else(String::new, |annotation| {
        let prefix = match annotation.prefixes {
            Prefixes::Herald => HERALD_PREFIX,
            Prefixes::Both | Prefixes::Ignored if key.starts_with(HERALD_PREFIX) => HERALD_PREFIX,
            Prefixes::Both | Prefixes::Ignored => LBC_PREFIX,
        };
        format!(
            "; did you mean {prefix}{}{}?",
            annotation.suffix,
            annotation.parameter.placeholder()
        )
    });
    Some(Warning {
        reason: "UnknownAnnotation",
        message: format!("annotation {key} is not known and has no effect{hint}"),
    })
}

/// The annotation whose name is most like `rest`, if one is like it at all.
fn nearest(rest: &str, like: f64) -> Option<&'static Annotation> {
    // What follows a dot belongs to the parameter.
    let name = rest.split('.').next().unwrap_or(rest);
    Annotation::all()
        .filter(|annotation| annotation.prefixes != Prefixes::Ignored)
        .filter(|annotation| annotation.parameter == Parameter::None || rest.contains('.'))
        .map(|annotation| {
            let likeness = strsim::normalized_damerau_levenshtein(name, annotation.suffix);
            (annotation, likeness)
        })
        .filter(|(_, likeness)| *likeness >= like)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(annotation, _)| annotation)
}
