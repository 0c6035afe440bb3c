//! What people were told of who announces their Services, so that they are told
//! when that changes and not again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::duties::{ServiceRef, Vip};

/// Addresses of which this node was the last one that was told to announce them,
/// with their Services.
#[derive(Debug, Default)]
pub(super) struct Told {
    told: BTreeSet<(IpAddr, Arc<ServiceRef>)>,
    /// There may be more to tell of what this node has all the while.
    pub(super) more: bool,
}

impl Told {
    /// Notes that this node announces addresses. Gives what is to be told: Services
    /// with an address among them that was not told of, or all of them where the
    /// addresses come from another node.
    pub(super) fn tell(
        &mut self,
        vips: &[Vip],
        from_another: bool,
    ) -> BTreeMap<Arc<ServiceRef>, Vec<IpAddr>> {
        let mut services: BTreeMap<_, (bool, Vec<IpAddr>)> = BTreeMap::new();
        for (address, refs) in vips {
            for service in refs {
                let new = self.told.insert((*address, service.clone()));
                let (tell, addresses) = services.entry(service.clone()).or_default();
                *tell |= new || from_another;
                addresses.push(*address);
            }
        }
        let services = services.into_iter();
        services
            .filter(|(_, (tell, _))| *tell)
            .map(|(service, (_, addresses))| (service, addresses))
            .collect()
    }

    /// Another node has these addresses.
    pub(super) fn forget(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.told
            .retain(|(address, _)| !addresses.contains(address));
    }

    /// These are all that there are.
    pub(super) fn retain<'a>(&mut self, vips: impl Iterator<Item = &'a Vip>) {
        let there: BTreeSet<(IpAddr, &ServiceRef)> = vips
            .flat_map(|(address, services)| services.iter().map(|s| (*address, &**s)))
            .collect();
        self.told
            .retain(|(address, service)| there.contains(&(*address, &**service)));
    }
}

#[cfg(test)]
mod tests {
    use herald_core::ServiceKey;

    use super::*;

    fn vip(address: &str, services: &[&str]) -> Vip {
        let service = |name: &&str| {
            Arc::new(ServiceRef {
                key: ServiceKey::new("default", *name),
                uid: format!("uid-of-{name}"),
            })
        };
        (
            address.parse().unwrap(),
            services.iter().map(service).collect(),
        )
    }

    fn names(told: &BTreeMap<Arc<ServiceRef>, Vec<IpAddr>>) -> Vec<(&str, usize)> {
        let told = told.iter();
        told.map(|(service, addresses)| (service.key.name.as_str(), addresses.len()))
            .collect()
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let mut told = Told::default();
        let both = [vip("10.0.0.1", &["web"]), vip("fd00::1", &["web"])];
        assert_eq!(names(&told.tell(&both, false)), [("web", 2)]);
        assert!(told.tell(&both, false).is_empty(), "after a link was away");
        assert_eq!(names(&told.tell(&both, true)), [("web", 2)]);
    }

    #[test]
    fn a_service_or_an_address_that_comes_to_a_group_is_told_of() {
        let mut told = Told::default();
        told.tell(&[vip("10.0.0.1", &["web"])], false);
        let shared = [vip("10.0.0.1", &["web", "dns"])];
        assert_eq!(names(&told.tell(&shared, false)), [("dns", 1)]);
        let more = [vip("10.0.0.1", &["web", "dns"]), vip("fd00::1", &["dns"])];
        assert_eq!(names(&told.tell(&more, false)), [("dns", 2)]);
    }

    #[test]
    fn what_another_had_or_what_was_gone_is_told_again() {
        let mut told = Told::default();
        let both = [vip("10.0.0.1", &["web"]), vip("10.0.0.2", &["dns"])];
        told.tell(&both, false);
        told.forget(&BTreeSet::from(["10.0.0.1".parse().unwrap()]));
        assert_eq!(names(&told.tell(&both, false)), [("web", 1)]);
        told.retain(both[..1].iter());
        assert_eq!(names(&told.tell(&both, false)), [("dns", 1)]);
    }
}
