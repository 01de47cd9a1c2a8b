//! `capsid events`.

use clap::Args;

use super::formatted;
use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::print;
use crate::present::times;
use crate::present::value::Value;
use crate::words::filters;

/// Flags of `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    /// Show those only for which it holds: NAME=VALUE
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// 'json', or a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show events since a moment (2013-01-02T13:23:37Z) or a length of time (42m)
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// End at a moment or a length of time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
}

/// Prints events as they come.
pub(crate) async fn events(arguments: &EventsArguments, call: &Call) -> Result<u8, Failure> {
    let moment =
        |text: &Option<String>| text.as_deref().map(times::moment).transpose().map_err(Failure::text);
    let (since, until) = (moment(&arguments.since)?, moment(&arguments.until)?);
    let filters = filters::document(&arguments.filter).map_err(Failure::text)?;
    let client = call.connect().await?;
    let request = client.get("/events").query_if("since", since).query_if("until", until);
    let mut events = request.query_if("filters", filters).send().await?.json_stream::<Value>();
    while let Some(event) = events.next().await? {
        let text = match arguments.format.as_deref().filter(|format| !format.is_empty()) {
            Some(format) => formatted(&event, format)?,
            None => line(&event),
        };
        print(&format!("{text}\n"))?;
    }
    Ok(0)
}

/// `2024-01-02T03:04:05.000000000Z container start ID (image=busybox, name=web)`.
fn line(event: &Value) -> String {
    let nanoseconds = match event.get("timeNano").number() {
        0 => i128::from(event.get("time").number()) * 1_000_000_000,
        nanoseconds => nanoseconds.into(),
    };
    let mut attributes: Vec<String> = event
        .at(&["Actor", "Attributes"])
        .fields()
        .iter()
        .map(|(name, value)| format!("{name}={}", value.text()))
        .collect();
    attributes.sort();
    let (kind, action, id) =
        (event.get("Type").text(), event.get("Action").text(), event.at(&["Actor", "ID"]).text());
    let mut line = format!("{} {kind} {action} {id}", times::event_time(nanoseconds));
    if !attributes.is_empty() {
        line.push_str(&format!(" ({})", attributes.join(", ")));
    }
    line.chars().filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_sorted_attributes() {
        let event: Value = serde_json::from_str(
            r#"{"Type":"container","Action":"start","Actor":{"ID":"0123","Attributes":{"name":"web","image":"busy\nbox"}},
            "time":1,"timeNano":1500000000}"#,
        )
        .unwrap();
        let line = line(&event);
        assert!(line.starts_with("1970-01-01T"), "{line}");
        assert!(line.ends_with(" container start 0123 (image=busybox, name=web)"), "{line}");
    }
}
