//! What was given to whom.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use herald_core::{AddressRange, IpFamily};
use serde::{Deserialize, Serialize};

/// Whose leases: one cluster may have several pools here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Scope {
    pub(crate) cluster: String,
    pub(crate) pool: String,
}

/// An address that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Lease {
    pub(crate) id: String,
    pub(crate) address: IpAddr,
}

/// Who has which address, kept in a file.
#[derive(Debug)]
pub(crate) struct Store {
    ranges: Vec<AddressRange>,
    file: PathBuf,
    given: BTreeMap<IpAddr, Given>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    #[serde(flatten)]
    scope: Scope,
    id: String,
    address: IpAddr,
}

impl Store {
    pub(crate) fn open(ranges: Vec<AddressRange>, file: PathBuf) -> Result<Self> {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => "[]".to_owned(),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        let given: Vec<Given> =
            serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
        let given = given.into_iter().map(|given| (given.address, given));
        Ok(Self {
            ranges,
            given: given.collect(),
            file,
        })
    }

    /// The address of a lease: the one that it has, or the one that is asked for, or
    /// the first that is free; or why there is none.
    pub(crate) fn give(
        &mut self,
        scope: Scope,
        id: &str,
        family: IpFamily,
        asked: Option<IpAddr>,
    ) -> Result<Result<IpAddr, String>> {
        let own = |given: &&Given| given.id == id && given.scope == scope;
        if let Some(given) = self.given.values().find(own) {
            return Ok(Ok(given.address));
        }
        let address = match asked {
            Some(address) if !self.ranges.iter().any(|range| range.contains(&address)) => {
                return Ok(Err(format!("{address} is none of mine")));
            }
            Some(address) if self.given.contains_key(&address) => {
                return Ok(Err(format!("{address} is taken")));
            }
            Some(address) => address,
            None => match self.first_free(family) {
                Some(address) => address,
                None => return Ok(Err(format!("no {family} address is left"))),
            },
        };
        let given = Given {
            scope,
            id: id.to_owned(),
            address,
        };
        self.given.insert(address, given);
        self.keep()?;
        Ok(Ok(address))
    }

    fn first_free(&self, family: IpFamily) -> Option<IpAddr> {
        let mut ranges = self.ranges.iter().filter(|range| range.family() == family);
        ranges.find_map(|range| {
            let mut all = (0..range.size()).filter_map(|place| range.nth(place));
            all.find(|address| !self.given.contains_key(address))
        })
    }

    /// Takes a lease back; one that is unknown is back already.
    pub(crate) fn take_back(&mut self, scope: &Scope, id: &str) -> Result<()> {
        let before = self.given.len();
        self.given
            .retain(|_, given| given.id != id || given.scope != *scope);
        if self.given.len() == before {
            return Ok(());
        }
        self.keep()
    }

    pub(crate) fn list(&self, scope: &Scope) -> Vec<Lease> {
        let own = self.given.values().filter(|given| given.scope == *scope);
        own.map(|given| Lease {
            id: given.id.clone(),
            address: given.address,
        })
        .collect()
    }

    /// An answer is a promise: it stands in the file before it is given.
    fn keep(&self) -> Result<()> {
        let given: Vec<&Given> = self.given.values().collect();
        let new = self.file.with_extension("new");
        std::fs::write(&new, serde_json::to_string_pretty(&given)?)
            .and_then(|()| std::fs::rename(&new, &self.file))
            .with_context(|| format!("write {}", self.file.display()))
    }
}
