//! What users type and read: the CRDs of group `herald.dev`, annotations,
//! load balancer classes, condition types and reasons.
//!
//! Kinds and fields are those that `MetalLB`'s users know, with the same
//! meaning.

mod bfd_profile;
mod bgp_advertisement;
mod bgp_peer;
mod bgp_status;
mod community;
mod condition;
pub mod convert;
mod following;
mod ip_address_pool;
mod l2_advertisement;
mod l2_status;
pub mod names;
mod period;
mod retry;

pub use bfd_profile::{BFDProfile, BFDProfileSpec, BFDProfileStatus};
pub use bgp_advertisement::{BGPAdvertisement, BGPAdvertisementSpec, BGPAdvertisementStatus};
pub use bgp_peer::{
    AddressFamily, BGPPeer, BGPPeerSpec, BGPPeerStatus, DynamicAsn, GracefulRestartSettings,
    Password, SecretReference,
};
pub use bgp_status::{BFDSession, BGPSession, BGPStatus, BGPStatusSpec, BGPStatusStatus};
pub use community::{Community, CommunityAlias, CommunitySpec, CommunityStatus};
pub use condition::{Condition, set_condition};
pub use following::following;
pub use ip_address_pool::{
    FreedAddress, IPAddressPool, IPAddressPoolSpec, IPAddressPoolStatus, PoolDrain, PoolLimits,
    PoolReservation, PoolSelection, PoolState, ServiceAllocation,
};
pub use l2_advertisement::{
    L2Advertisement, L2AdvertisementSpec, L2Policy, L2Profile, L2Rebalance, PreferredNodeSelector,
};
pub use l2_status::{
    L2Address, L2Interface, L2Peer, L2Segment, L2Status, L2StatusSpec, L2StatusStatus,
};
pub use period::{InvalidPeriod, period};
pub use retry::Retry;

mod selector;
pub use selector::{InvalidSelector, LabelSelector, LabelSelectorRequirement, any_or_empty};
