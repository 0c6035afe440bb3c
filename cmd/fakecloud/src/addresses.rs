//! The load balancers' addresses on an interface of this host.
//!
//! They are plugged as host addresses (/32 and /128), so that the kernel
//! answers ARP and NDP for them itself.

use std::net::IpAddr;

use futures::TryStreamExt;
use herald_core::AddressRange;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::{Handle, new_connection};
use thiserror::Error;

/// Why an address is not as it should be.
#[derive(Debug, Error)]
pub enum AddressError {
    /// Netlink is not to be had.
    #[error("cannot open netlink")]
    Open(#[source] std::io::Error),
    /// The interface is not there.
    #[error("there is no interface {interface:?} for load-balancer addresses; check --interface")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// The kernel refused.
    #[error("cannot {verb} {address} on {interface}: {source} (CAP_NET_ADMIN is needed)")]
    Change {
        /// `plug` or `unplug`.
        verb: &'static str,
        /// Which address.
        address: IpAddr,
        /// On which interface.
        interface: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The kernel would not list them.
    #[error("cannot list the addresses of {interface}")]
    List {
        /// Of which interface.
        interface: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
}

/// Plugs and unplugs addresses. Without an interface it does nothing: the
/// addresses must be the host's already, as all of 127.0.0.0/8 are.
#[derive(Debug)]
pub struct Addresses(Option<Link>);

#[derive(Debug)]
struct Link {
    handle: Handle,
    index: u32,
    name: String,
}

impl Addresses {
    /// Opens an interface, if any, and takes away what an earlier process left
    /// there: host addresses out of `pools`.
    pub async fn open(
        interface: Option<&str>,
        pools: &[AddressRange],
    ) -> Result<Self, AddressError> {
        let Some(name) = interface else {
            return Ok(Self(None));
        };
        let (connection, handle, _) = new_connection().map_err(AddressError::Open)?;
        tokio::spawn(connection);
        let mut links = handle.link().get().match_name(name.to_owned()).execute();
        let Ok(Some(link)) = links.try_next().await else {
            return Err(AddressError::NoInterface {
                interface: name.to_owned(),
            });
        };
        let link = Link {
            handle,
            index: link.header.index,
            name: name.to_owned(),
        };
        for (address, message) in link.host_addresses().await? {
            if pools.iter().any(|pool| pool.contains(&address)) {
                tracing::info!(%address, interface = name, "remove what an earlier process left");
                link.delete(address, message).await?;
            }
        }
        Ok(Self(Some(link)))
    }

    /// Gives an address to the host; fine if it has it already.
    pub async fn plug(&self, address: IpAddr) -> Result<(), AddressError> {
        let Some(link) = &self.0 else {
            return Ok(());
        };
        let mut request = link
            .handle
            .address()
            .add(link.index, address, host_length(address))
            .replace();
        if address.is_ipv6() {
            // The cloud has made sure that nobody else has it, and an address
            // in duplicate detection can't be listened on for a second.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request
            .execute()
            .await
            .map_err(|source| AddressError::Change {
                verb: "plug",
                address,
                interface: link.name.clone(),
                source,
            })
    }

    /// Takes an address from the host; fine if it has it no longer.
    pub async fn unplug(&self, address: IpAddr) -> Result<(), AddressError> {
        let Some(link) = &self.0 else {
            return Ok(());
        };
        for (other, message) in link.host_addresses().await? {
            if other == address {
                link.delete(address, message).await?;
            }
        }
        Ok(())
    }
}

impl Link {
    /// All /32 and /128 of the interface.
    async fn host_addresses(&self) -> Result<Vec<(IpAddr, AddressMessage)>, AddressError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(self.index)
            .execute()
            .try_collect()
            .await
            .map_err(|source| AddressError::List {
                interface: self.name.clone(),
                source,
            })?;
        Ok(messages
            .into_iter()
            .filter_map(|message| {
                let address = address_of(&message)?;
                (message.header.prefix_len == host_length(address)).then_some((address, message))
            })
            .collect())
    }

    async fn delete(&self, address: IpAddr, message: AddressMessage) -> Result<(), AddressError> {
        self.handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(|source| AddressError::Change {
                verb: "unplug",
                address,
                interface: self.name.clone(),
                source,
            })
    }
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
}

const fn host_length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
