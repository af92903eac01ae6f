//! `twinbox user …`.

use std::path::Path;

use twinbox_wire::admin::{
    User, UserAddRequest, UserListReply, UserListRequest, UserPinReply, UserRenumberRequest, UserRequest,
    UserSetPinRequest,
};

use super::{backup::size, directory, users};
use crate::output;
use twinbox_admin_client::{CliError, client, pages};
use twinbox_cli_args::UserCommand;

/// Sends the request and prints the result.
pub async fn run(socket: &Path, json: bool, command: UserCommand) -> Result<(), CliError> {
    let command = match command {
        UserCommand::Import(args) => return users::import(socket, json, args).await,
        UserCommand::Export { output } => return users::export(socket, json, &output).await,
        UserCommand::Set(args) => return users::set(socket, json, args).await,
        UserCommand::CheckPassword(args) => return directory::check_password(socket, json, args).await,
        command => command,
    };
    let mut node = client::connect(socket).await?;
    match command {
        UserCommand::Import(_)
        | UserCommand::Export { .. }
        | UserCommand::Set(_)
        | UserCommand::CheckPassword(_) => {}
        UserCommand::Add { number, name, pin, keep_pin, timezone, operator, mail, aliases } => {
            let request = UserAddRequest {
                number: number.clone(),
                name,
                pin: pin.unwrap_or_default(),
                must_change: !keep_pin,
                timezone,
                operator,
                mail,
                aliases,
            };
            let reply = node.user_add(request).await?.into_inner();
            if json {
                return with_pin(&number, &reply);
            }
            println!("mailbox {number} added ({})", output::acknowledged(&reply.acknowledged));
            print_new_pin(&reply.pin, keep_pin);
        }
        UserCommand::List => {
            let users =
                pages::all(async |after| node.user_list(UserListRequest { limit: pages::AS_FIT, after }).await);
            let users = users.await?;
            if json {
                return output::json(&UserListReply { users, ..Default::default() });
            }
            print_table(users);
        }
        UserCommand::Show { number } => {
            let user = node.user_show(UserRequest { number }).await?.into_inner();
            if json {
                return output::json(&user);
            }
            let more = [("aliases", user.aliases.join(", ")), ("directory", user.directory.clone())];
            let (audio, lost) = (size(user.audio_bytes), user.lost_addresses.join(", "));
            print_table(vec![user]);
            println!("audio of messages and greetings: {audio}");
            for (what, value) in more.iter().filter(|(_, value)| !value.is_empty()) {
                println!("{what}: {value}");
            }
            if !lost.is_empty() {
                println!("another user has since a split: {lost}; set other addresses with 'twinbox user set'");
            }
        }
        UserCommand::SetPin { number, pin, keep_pin } => {
            let pin = pin.unwrap_or_default();
            let request = UserSetPinRequest { number: number.clone(), pin, must_change: !keep_pin };
            let reply = node.user_set_pin(request).await?.into_inner();
            if json {
                return with_pin(&number, &reply);
            }
            println!("mailbox {number} has a new PIN ({})", output::acknowledged(&reply.acknowledged));
            print_new_pin(&reply.pin, keep_pin);
        }
        UserCommand::Renumber { number, to } => {
            let reply = node.user_renumber(UserRenumberRequest { number: number.clone(), to: to.clone() }).await?;
            let reply = reply.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("mailbox {number} has the number {to} ({})", output::acknowledged(&reply.acknowledged));
        }
        UserCommand::Remove { number } => {
            let reply = node.user_remove(UserRequest { number: number.clone() }).await?.into_inner();
            if json {
                return output::json(&reply);
            }
            println!("mailbox {number} removed ({})", output::acknowledged(&reply.acknowledged));
        }
    }
    Ok(())
}

/// Prints the users, and those that lost their numbers once more with the remedy.
fn print_table(users: Vec<User>) {
    let lost = users.iter().filter(|user| user.number_lost);
    let lost: Vec<_> = lost.map(|user| (user.number.clone(), user.id.clone())).collect();
    println!("{}", table(users));
    for (number, id) in lost {
        println!(
            "mailbox {id} lost the number {number} to another one in a split: give it a new one with \
             'twinbox user renumber {id} NUMBER'"
        );
    }
}

fn table(users: Vec<User>) -> String {
    let rows = users.into_iter().map(|u| {
        let pin = if u.must_change_pin { "to be changed" } else { "set" };
        let pin = if u.disabled { "disabled" } else { pin };
        vec![
            if u.number_lost { format!("{} (lost)", u.number) } else { u.number },
            u.name,
            u.new_messages.to_string(),
            u.old_messages.to_string(),
            pin.to_owned(),
            u.timezone,
            u.cos,
            u.mail,
        ]
    });
    output::table(&["NUMBER", "NAME", "NEW", "OLD", "PIN", "TIME ZONE", "CLASS", "MAIL"], rows)
}

/// A reply as JSON; `pin` is null if the command named it.
fn with_pin(number: &str, reply: &UserPinReply) -> Result<(), CliError> {
    let UserPinReply { id, acknowledged, pin } = reply;
    let pin = Some(pin).filter(|pin| !pin.is_empty());
    output::json(&serde_json::json!({ "id": id, "number": number, "acknowledged": acknowledged, "pin": pin }))
}

/// Prints the PIN that the node chose, if it did.
fn print_new_pin(pin: &str, keep: bool) {
    if !pin.is_empty() {
        let note = if keep { "" } else { " (to be changed at the first sign-in)" };
        println!("PIN: {pin}{note}");
    }
}
