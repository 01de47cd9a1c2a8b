//! `capsid history`.

use capsid_api::client::segment;
use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::{Form, Kind, Row, print};
use crate::present::table::{ellipsis, short_id};
use crate::present::value::Value;
use crate::present::{sizes, times};

/// Longest step that is shown, in characters.
const STEP_CHARACTERS: usize = 45;

const KIND: Kind = Kind {
    table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    headings: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    quiet: "{{.ID}}",
};
const IN_NUMBERS: Kind =
    Kind { table: "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}", ..KIND };

/// Flags and words of `history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// 'table', 'json', or a template, which may follow 'table'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print sizes and dates for people
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    human: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Show this platform's variant
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Print identifiers alone
    #[arg(short, long)]
    quiet: bool,
    image: String,
}

/// Lists an image's steps, the newest first.
pub(crate) async fn history(arguments: &HistoryArguments, call: &Call) -> Result<u8, Failure> {
    let kind = if arguments.human { KIND } else { IN_NUMBERS };
    let form = Form::new(kind, arguments.format.as_deref(), arguments.quiet)?;
    let client = call.connect().await?;
    let request = client.get(format!("/images/{}/history", segment(&arguments.image)));
    let steps: Vec<Value> =
        request.query_if("platform", arguments.platform.as_deref()).send().await?.json().await?;
    let rows: Vec<Row> = steps.iter().map(|step| row(step, arguments)).collect();
    print(&form.text(&rows)?)?;
    Ok(0)
}

fn row(step: &Value, arguments: &HistoryArguments) -> Row {
    let (id, by) = (step.get("Id").text(), step.get("CreatedBy").text().replace('\t', " "));
    let (created, size) = (step.get("Created").number(), step.get("Size").number());
    let date =
        jiff::Timestamp::from_second(created).map_or_else(|_| String::new(), |moment| moment.to_string());
    Row::new([
        ("ID", if arguments.no_trunc || id == "<missing>" { id.to_owned() } else { short_id(id).to_owned() }),
        ("CreatedSince", if arguments.human { times::ago(created) } else { date.clone() }),
        ("CreatedAt", date),
        ("CreatedBy", if arguments.no_trunc { by } else { ellipsis(&by, STEP_CHARACTERS) }),
        ("Size", if arguments.human { sizes::human(size) } else { size.to_string() }),
        ("Comment", step.get("Comment").text().to_owned()),
    ])
}
