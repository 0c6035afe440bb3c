//! Weighted actions, and ports named in annotations.

use herald_core::ServicePort;
use serde::Deserialize;

/// Most target groups of an action besides the Service's own.
const MOST_TARGETS: usize = 4;
/// Largest weight.
const MOST_WEIGHT: u32 = 999;

/// A port of a Service, by number or name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortName {
    /// `spec.ports[].port`.
    Number(u16),
    /// `spec.ports[].name`.
    Name(String),
}

impl PortName {
    /// Reads a number from 1 to 65535 or else a name.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .map(Self::Number);
        }
        Some(Self::Name(text.to_owned()))
    }

    /// Whether it names this port.
    pub fn is(&self, port: &ServicePort) -> bool {
        match self {
            Self::Number(number) => *number == port.port,
            Self::Name(name) => *name == port.name,
        }
    }
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What a listener does: share its traffic between target groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Weight of the Service's own pods; none where there is nobody else.
    pub own_weight: Option<u16>,
    /// Everybody else.
    pub targets: Vec<(ActionTarget, Option<u16>)>,
    /// Whether a client stays with the target group it got first.
    pub sticky: bool,
}

/// Whom a listener shares its traffic with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionTarget {
    /// A port of another Service of the namespace.
    Service {
        /// Its name.
        name: String,
        /// Its port.
        port: PortName,
    },
    /// A target group that the user made.
    Arn(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    #[serde(rename = "type")]
    kind: String,
    forward_config: Option<Forward>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Forward {
    base_service_weight: Option<u32>,
    #[serde(default)]
    target_groups: Vec<Target>,
    target_group_stickiness_config: Option<Stickiness>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Target {
    service_name: Option<String>,
    service_port: Option<Port>,
    #[serde(rename = "targetGroupARN")]
    arn: Option<String>,
    weight: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Name(String),
}

#[derive(Deserialize)]
struct Stickiness {
    #[serde(default)]
    enabled: bool,
}

impl Action {
    /// Reads the JSON of the annotation, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let json: Json = serde_json::from_str(text)
            .map_err(|error| format!("its value is not the JSON of an action: {error}"))?;
        if json.kind != "forward" {
            return Err("its type must be \"forward\"".to_owned());
        }
        let forward = json
            .forward_config
            .ok_or("an action of type forward needs forwardConfig")?;
        if forward.target_groups.len() > MOST_TARGETS {
            return Err(format!("it has more than {MOST_TARGETS} targetGroups"));
        }
        let targets = forward
            .target_groups
            .into_iter()
            .map(target)
            .collect::<Result<Vec<_>, String>>()?;
        let own_weight = weight(forward.base_service_weight)?;
        let weighted = own_weight.is_some() && targets.iter().all(|(_, weight)| weight.is_some());
        if !targets.is_empty() && !weighted {
            return Err(
                "with several target groups each needs a weight, and so does the Service itself \
                 (baseServiceWeight)"
                    .to_owned(),
            );
        }
        Ok(Self {
            own_weight: own_weight.filter(|_| !targets.is_empty()),
            targets,
            sticky: forward
                .target_group_stickiness_config
                .is_some_and(|stickiness| stickiness.enabled),
        })
    }
}

fn target(target: Target) -> Result<(ActionTarget, Option<u16>), String> {
    let weight = weight(target.weight)?;
    let target = match (target.arn, target.service_name) {
        (Some(arn), None) => ActionTarget::Arn(arn),
        (None, Some(name)) => {
            let port = match target.service_port {
                Some(Port::Number(number)) => PortName::parse(&number.to_string()),
                Some(Port::Name(name)) => PortName::parse(&name),
                None => return Err(format!("Service {name:?} needs a servicePort")),
            };
            let port = port.ok_or_else(|| format!("the servicePort of {name:?} is no port"))?;
            ActionTarget::Service { name, port }
        }
        _ => {
            return Err(
                "each of targetGroups needs either targetGroupARN or serviceName".to_owned(),
            );
        }
    };
    Ok((target, weight))
}

fn weight(weight: Option<u32>) -> Result<Option<u16>, String> {
    weight
        .map(|weight| {
            u16::try_from(weight)
                .ok()
                .filter(|_| weight <= MOST_WEIGHT)
                .ok_or_else(|| format!("weight {weight} is not from 0 to {MOST_WEIGHT}"))
        })
        .transpose()
}
