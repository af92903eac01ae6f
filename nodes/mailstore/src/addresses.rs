//! Mail addresses of users: the mailbox of an address, and the claims that give an address to one mailbox (rule D6).

use twinbox_ids::MailboxId;
use twinbox_mailbox::{Mailbox, UserAddress, UserAddresses, schema};
use twinbox_replication_core::Record;
use twinbox_replication_store::Draft;

use crate::{MailError, Mailstore, mailboxes::mailbox_in};

/// An address that another mailbox has.
pub struct TakenAddress {
    /// The address.
    pub address: UserAddress,
    /// Number of that mailbox.
    pub number: String,
}

impl Mailstore {
    /// The mailbox that has this address or alias.
    pub async fn find_by_address(&self, address: &UserAddress) -> Result<Option<Mailbox>, MailError> {
        let Some(record) = self.store().get(&schema::address_key(address))? else { return Ok(None) };
        first_of(&record, address, |id| self.get_now(id))
    }

    /// The addresses of a mailbox that another one has, because both got them while their nodes could not reach each
    /// other: the earlier claim counts. Mail to them goes to the other mailbox.
    pub fn lost_addresses(&self, mailbox: &Mailbox) -> Result<Vec<UserAddress>, MailError> {
        let taken = self.taken(mailbox.id, &mailbox.addresses)?;
        Ok(taken.into_iter().map(|taken| taken.address).collect())
    }

    /// Those of the addresses that another mailbox than this one has.
    pub(crate) fn taken(&self, id: MailboxId, addresses: &UserAddresses) -> Result<Vec<TakenAddress>, MailError> {
        let mut taken = Vec::new();
        for address in addresses.all() {
            let Some(record) = self.store().get(&schema::address_key(address))? else { continue };
            let holder = first_of(&record, address, |id| self.get_now(id))?.filter(|holder| holder.id != id);
            taken.extend(holder.map(|holder| TakenAddress { address: address.clone(), number: holder.number }));
        }
        Ok(taken)
    }
}

/// Gives a mailbox addresses in place of those `before`, with their claims. Changes nothing if another mailbox has one
/// of the new ones, which is returned.
pub fn set_addresses(
    draft: &mut Draft<'_>,
    id: MailboxId,
    before: &UserAddresses,
    after: &UserAddresses,
) -> Result<Option<TakenAddress>, MailError> {
    if let Some(taken) = taken_in(draft, id, before, after)? {
        return Ok(Some(taken));
    }
    let (old, new) = (before.all(), after.all());
    for address in old.difference(&new) {
        draft.edit(schema::address_key(address), UserAddress::release(id))?;
    }
    for address in new.difference(&old) {
        draft.edit(schema::address_key(address), UserAddress::claim(id))?;
    }
    let edits = after.edits_since(before);
    if !edits.is_empty() {
        draft.edit(schema::mailbox_key(id), edits)?;
    }
    Ok(None)
}

/// The first of the addresses not among those `before` that another mailbox has.
pub fn taken_in(
    draft: &Draft<'_>,
    id: MailboxId,
    before: &UserAddresses,
    after: &UserAddresses,
) -> Result<Option<TakenAddress>, MailError> {
    let old = before.all();
    for address in after.all().into_iter().filter(|address| !old.contains(address)) {
        let Some(record) = draft.get(&schema::address_key(address))? else { continue };
        let get = |id| match mailbox_in(draft, id) {
            Err(MailError::NoMailbox(_)) => Ok(None),
            found => found.map(Some),
        };
        if let Some(holder) = first_of(&record, address, get)?.filter(|holder| holder.id != id) {
            return Ok(Some(TakenAddress { address: address.clone(), number: holder.number }));
        }
    }
    Ok(None)
}

/// The first claimant that still lists the address. A claim may stay behind a mailbox: its removal, or a change of its
/// addresses, came from a node that did not know of the claim.
fn first_of(
    record: &Record,
    address: &UserAddress,
    get: impl Fn(MailboxId) -> Result<Option<Mailbox>, MailError>,
) -> Result<Option<Mailbox>, MailError> {
    for id in UserAddress::claimants(record) {
        match get(id) {
            Ok(Some(mailbox)) if mailbox.addresses.all().contains(address) => return Ok(Some(mailbox)),
            // A mailbox that this release cannot read has none that it knows of.
            Ok(_) | Err(MailError::View(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The changed addresses for an administrator.
pub(crate) fn address_words(before: &UserAddresses, after: &UserAddresses) -> Vec<String> {
    let mail = after.mail.as_ref().map_or("none", UserAddress::as_str);
    let aliases = if after.aliases.is_empty() { "none".to_owned() } else { after.aliases_text() };
    let mail = (after.mail != before.mail).then(|| format!("mail {mail}"));
    let aliases = (after.aliases != before.aliases).then(|| format!("aliases {aliases}"));
    mail.into_iter().chain(aliases).collect()
}
