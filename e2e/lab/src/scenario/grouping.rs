//! Which cases run, and which of them share a lab.

use super::{Case, Isolation, Kernel, Needs, Scenario};
use crate::plan::Families;

use super::spec::ProxyMode;

/// What was asked for on the command line.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Names of scenarios; when empty all but those that only measure.
    pub names: Vec<String>,
    /// Only with this kube-proxy mode, whatever the scenarios list.
    pub proxy_mode: Option<ProxyMode>,
    /// These families in place of those that the scenarios list.
    pub families: Option<Families>,
    /// How often each case runs.
    pub repeat: u32,
}

/// Cases that run in one lab, one after the other.
#[derive(Clone, Debug)]
pub struct Group {
    /// What the lab must offer.
    pub needs: Needs,
    /// Its cases, in the order of the list.
    pub cases: Vec<Case>,
}

/// The cases of the list that were asked for, in its order: one for each
/// kube-proxy mode of a scenario and each repetition. Names that the list does
/// not have are the error.
pub fn cases(list: &'static [Scenario], selection: &Selection) -> Result<Vec<Case>, Vec<String>> {
    let unknown: Vec<String> = selection
        .names
        .iter()
        .filter(|name| !list.iter().any(|scenario| scenario.name == **name))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let mut cases = Vec::new();
    for round in 1..=selection.repeat.max(1) {
        for scenario in list {
            let named = if selection.names.is_empty() {
                !scenario.only_bench
            } else {
                selection.names.iter().any(|name| name == scenario.name)
            };
            if !named {
                continue;
            }
            for &proxy_mode in scenario.proxy_modes {
                let needs = Needs {
                    families: selection.families.unwrap_or(scenario.families),
                    ..scenario.needs(selection.proxy_mode.unwrap_or(proxy_mode))
                };
                let case = Case {
                    scenario: scenario.name.to_owned(),
                    round,
                    needs,
                };
                // A mode asked for stands for all that the scenario lists.
                if !cases.contains(&case) {
                    cases.push(case);
                }
            }
        }
    }
    Ok(cases)
}

/// Puts cases with equal needs, that bear company, into one lab. As a virtual
/// machine takes minutes to start, a case that does not bear company is put at
/// the end of one.
pub fn groups(list: &'static [Scenario], cases: Vec<Case>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let isolation = |case: &Case| {
        list.iter()
            .find(|scenario| scenario.name == case.scenario)
            .map_or(Isolation::Own, |scenario| scenario.isolation)
    };
    for case in cases {
        let company = groups.iter_mut().find(|group| {
            let bears = |other: &Case| isolation(other) == Isolation::Shared;
            group.needs == case.needs
                && group
                    .cases
                    .iter()
                    .all(|other| other.round == case.round && bears(other))
                && (bears(&case) || case.needs.kernel() == Kernel::Vm)
        });
        match company {
            Some(group) => group.cases.push(case),
            None => groups.push(Group {
                needs: case.needs.clone(),
                cases: vec![case],
            }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::Overlay;
    use super::*;

    const fn scenario(name: &'static str, isolation: Isolation) -> Scenario {
        Scenario {
            name,
            title: "",
            isolation,
            run: |_| async { Ok(()) }.boxed(),
            ..Scenario::BASE
        }
    }

    static LIST: [Scenario; 6] = [
        Scenario {
            proxy_modes: &[ProxyMode::Nftables, ProxyMode::Iptables],
            ..scenario("a", Isolation::Shared)
        },
        scenario("b", Isolation::Own),
        scenario("c", Isolation::Shared),
        Scenario {
            overlay: Overlay::FakeCloud,
            ..scenario("d", Isolation::Shared)
        },
        scenario("e", Isolation::Own),
        Scenario {
            only_bench: true,
            ..scenario("f", Isolation::Shared)
        },
    ];

    fn select(selection: &Selection) -> Vec<String> {
        cases(&LIST, selection)
            .unwrap()
            .iter()
            .map(Case::label)
            .collect()
    }

    fn grouped(selection: &Selection) -> Vec<Vec<String>> {
        groups(&LIST, cases(&LIST, selection).unwrap())
            .iter()
            .map(|group| group.cases.iter().map(Case::label).collect())
            .collect()
    }

    #[test]
    fn a_scenario_runs_once_for_each_of_its_proxy_modes() {
        assert_eq!(
            select(&Selection::default()),
            ["a", "a (iptables)", "b", "c", "d", "e"]
        );
    }

    #[test]
    fn a_mode_asked_for_takes_the_place_of_the_listed_ones() {
        let selection = Selection {
            names: vec!["a".into(), "c".into()],
            proxy_mode: Some(ProxyMode::Iptables),
            ..Selection::default()
        };
        assert_eq!(select(&selection), ["a (iptables)", "c (iptables)"]);
    }

    #[test]
    fn what_only_measures_runs_where_it_is_named() {
        let selection = Selection {
            names: vec!["f".into()],
            ..Selection::default()
        };
        assert_eq!(select(&selection), ["f"]);
    }

    #[test]
    fn unknown_names_are_told() {
        let selection = Selection {
            names: vec!["a".into(), "z".into()],
            ..Selection::default()
        };
        assert_eq!(cases(&LIST, &selection), Err(vec!["z".to_owned()]));
    }

    #[test]
    fn only_shared_cases_with_equal_needs_share_a_lab() {
        assert_eq!(
            grouped(&Selection::default()),
            [
                vec!["a", "c"],
                vec!["a (iptables)"],
                vec!["b"],
                vec!["d"],
                vec!["e"]
            ]
        );
    }

    #[test]
    fn in_a_virtual_machine_one_that_breaks_things_comes_after_the_others() {
        let selection = Selection {
            proxy_mode: Some(ProxyMode::Ipvs),
            ..Selection::default()
        };
        assert_eq!(
            grouped(&selection),
            [
                vec!["a (ipvs)", "b (ipvs)"],
                vec!["c (ipvs)", "e (ipvs)"],
                vec!["d (ipvs)"],
            ]
        );
    }

    #[test]
    fn every_repetition_has_labs_of_its_own() {
        let selection = Selection {
            names: vec!["c".into()],
            repeat: 2,
            ..Selection::default()
        };
        assert_eq!(grouped(&selection), [["c"], ["c #2"]]);
    }
}
