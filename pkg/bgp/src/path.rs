//! What a route is offered with.

use thiserror::Error;

use crate::community::{
    AnyCommunity, Community, CommunityError, ExtendedCommunity, LargeCommunity,
};

/// The most octets of communities of all kinds that a route, or a peer's
/// policy, may have: with both, and the longest path, a message of 4096 octets
/// still has room for a prefix.
pub const MOST_COMMUNITIES: usize = 1024;
/// The most times that our AS may be prepended, by a route or by a policy.
pub const MOST_PREPENDED: u8 = 64;
/// `LOCAL_PREF` where nothing else was said.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// The attributes that a route is offered with, or that a peer's policy adds
/// to all routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PathAttributes {
    /// Standard communities.
    pub communities: Vec<Community>,
    /// Large communities.
    pub large_communities: Vec<LargeCommunity>,
    /// Extended communities.
    pub extended_communities: Vec<ExtendedCommunity>,
    /// `MULTI_EXIT_DISC`, the lower the better; none: it is not sent.
    pub med: Option<u32>,
    /// `LOCAL_PREF`, the higher the better; sent to peers in our AS only. None:
    /// [`DEFAULT_LOCAL_PREF`].
    pub local_pref: Option<u32>,
    /// How many times our AS is put before itself; not for peers in our AS.
    pub prepend: u8,
}

/// Attributes that can't be sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PathError {
    /// Above [`MOST_COMMUNITIES`].
    #[error(
        "the communities take {0} octets, and at most {MOST_COMMUNITIES} fit: \
         use fewer, at most 256 standard or 85 large ones"
    )]
    Communities(usize),
    /// Above [`MOST_PREPENDED`].
    #[error("the AS is to be prepended {0} times; at most {MOST_PREPENDED} are allowed")]
    Prepend(u8),
}

impl PathAttributes {
    /// Adds a community as [`AnyCommunity`] reads it.
    pub fn add_community(&mut self, text: &str) -> Result<(), CommunityError> {
        match text.parse()? {
            AnyCommunity::Standard(community) => self.communities.push(community),
            AnyCommunity::Large(community) => self.large_communities.push(community),
            AnyCommunity::Extended(community) => self.extended_communities.push(community),
        }
        Ok(())
    }

    /// Whether it may be used.
    pub fn validate(&self) -> Result<(), PathError> {
        let octets = self.communities.len() * 4
            + self.large_communities.len() * 12
            + self.extended_communities.len() * 8;
        if octets > MOST_COMMUNITIES {
            return Err(PathError::Communities(octets));
        }
        if self.prepend > MOST_PREPENDED {
            return Err(PathError::Prepend(self.prepend));
        }
        Ok(())
    }

    /// The same in the one form that equal attributes have: lists sorted, and
    /// each community once.
    #[must_use]
    pub(crate) fn normalized(mut self) -> Self {
        fn settle<T: Ord>(list: &mut Vec<T>) {
            list.sort_unstable();
            list.dedup();
        }
        settle(&mut self.communities);
        settle(&mut self.large_communities);
        settle(&mut self.extended_communities);
        self
    }

    /// Whether it has that form.
    pub(crate) fn is_normal(&self) -> bool {
        fn settled<T: Ord>(list: &[T]) -> bool {
            list.is_sorted_by(|one, next| one < next)
        }
        settled(&self.communities)
            && settled(&self.large_communities)
            && settled(&self.extended_communities)
    }

    /// With what a peer's `policy` adds: its communities and its prepending
    /// are added, its preferences hold where the route has none.
    #[must_use]
    pub(crate) fn with_policy(&self, policy: &Self) -> Self {
        let mut all = self.clone();
        all.communities.extend(&policy.communities);
        all.large_communities.extend(&policy.large_communities);
        all.extended_communities
            .extend(&policy.extended_communities);
        all.med = all.med.or(policy.med);
        all.local_pref = all.local_pref.or(policy.local_pref);
        all.prepend = all.prepend.saturating_add(policy.prepend);
        all.normalized()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_adds() {
        let route = PathAttributes {
            communities: vec![Community(2), Community(1), Community(2)],
            med: Some(1),
            prepend: 1,
            ..PathAttributes::default()
        };
        let policy = PathAttributes {
            communities: vec![Community(1), Community(3)],
            med: Some(9),
            local_pref: Some(200),
            prepend: 2,
            ..PathAttributes::default()
        };
        let all = route.with_policy(&policy);
        assert_eq!(all.communities, [Community(1), Community(2), Community(3)]);
        assert_eq!(
            (all.med, all.local_pref, all.prepend),
            (Some(1), Some(200), 3)
        );
    }

    #[test]
    fn limits_are_kept() {
        let many = PathAttributes {
            communities: vec![Community(1); 257],
            ..PathAttributes::default()
        };
        assert_eq!(many.validate(), Err(PathError::Communities(1028)));
        let long = PathAttributes {
            prepend: 65,
            ..PathAttributes::default()
        };
        assert_eq!(long.validate(), Err(PathError::Prepend(65)));
    }
}
