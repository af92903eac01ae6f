//! `twinbox user …`.

use std::path::Path;

use twinbox_wire::admin::{User, UserAddRequest, UserListReply, UserListRequest, UserRequest, UserSetPinRequest};

use super::{directory, users};
use crate::output;
use twinbox_admin_client::{CliError, client, pages, pin};
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
            let (pin, made) = pin_or_new(pin, &number);
            let request = UserAddRequest {
                number: number.clone(),
                name,
                pin: pin.clone(),
                must_change: !keep_pin,
                timezone,
                operator,
                mail,
                aliases,
            };
            let reply = node.user_add(request).await?.into_inner();
            if json {
                return output::json(&serde_json::json!({
                    "id": reply.id, "number": number, "acknowledged": reply.acknowledged, "pin": made.then_some(pin),
                }));
            }
            println!("mailbox {number} added ({})", output::acknowledged(&reply.acknowledged));
            print_new_pin(made, &pin, keep_pin);
        }
        UserCommand::List => {
            let users =
                pages::all(async |after| node.user_list(UserListRequest { limit: pages::AS_FIT, after }).await);
            let users = users.await?;
            if json {
                return output::json(&UserListReply { users, ..Default::default() });
            }
            println!("{}", table(users));
        }
        UserCommand::Show { number } => {
            let user = node.user_show(UserRequest { number }).await?.into_inner();
            if json {
                return output::json(&user);
            }
            let (aliases, lost) = (user.aliases.join(", "), user.lost_addresses.join(", "));
            println!("{}", table(vec![user]));
            if !aliases.is_empty() {
                println!("aliases: {aliases}");
            }
            if !lost.is_empty() {
                println!("another user has since a split: {lost}; set other addresses with 'twinbox user set'");
            }
        }
        UserCommand::SetPin { number, pin, keep_pin } => {
            let (pin, made) = pin_or_new(pin, &number);
            let request = UserSetPinRequest { number: number.clone(), pin: pin.clone(), must_change: !keep_pin };
            let reply = node.user_set_pin(request).await?.into_inner();
            if json {
                return output::json(&serde_json::json!({
                    "id": reply.id, "number": number, "acknowledged": reply.acknowledged, "pin": made.then_some(pin),
                }));
            }
            println!("mailbox {number} has a new PIN ({})", output::acknowledged(&reply.acknowledged));
            print_new_pin(made, &pin, keep_pin);
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

fn table(users: Vec<User>) -> String {
    let rows = users.into_iter().map(|u| {
        let pin = if u.must_change_pin { "to be changed" } else { "set" };
        vec![
            u.number,
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

/// The given PIN and `false`, or a new PIN of six digits and `true`.
fn pin_or_new(given: Option<String>, number: &str) -> (String, bool) {
    match given {
        Some(pin) => (pin, false),
        None => (pin::random(number, 6), true),
    }
}

fn print_new_pin(made: bool, pin: &str, keep: bool) {
    if made {
        let note = if keep { "" } else { " (to be changed at the first sign-in)" };
        println!("PIN: {pin}{note}");
    }
}
