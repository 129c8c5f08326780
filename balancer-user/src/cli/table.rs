//! Tables for people: columns of plain text, no lines, no colours.

use comfy_table::{CellAlignment, Row, Table, presets};
use serde_json::{Map, Value};

/// Characters of a cell that stands for a list or an object.
const MOST_CHARACTERS: usize = 64;

/// How a column is set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// A table of these columns.
pub(super) fn render(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let headers = columns.iter().map(|column| match column {
        Column::Left(name) => ((*name).to_owned(), CellAlignment::Left),
        Column::Right(name) => ((*name).to_owned(), CellAlignment::Right),
    });
    lay_out(headers.collect(), rows)
}

fn lay_out(
    headers: Vec<(String, CellAlignment)>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(
        headers
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>(),
    );
    table.add_rows(rows.into_iter().map(Row::from));
    for (column, (_, alignment)) in table.column_iter_mut().zip(&headers) {
        column.set_padding((0, 2)).set_cell_alignment(*alignment);
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Facts, one a line, their names in a column.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = facts
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"));
    lines.collect()
}

/// A table of objects that are not known beforehand: a column for each key of the first.
pub(super) fn objects(objects: &[Map<String, Value>]) -> String {
    let Some(first) = objects.first() else {
        return String::new();
    };
    let headers = first.iter().map(|(key, value)| {
        let numeric = value.is_number();
        let alignment = if numeric {
            CellAlignment::Right
        } else {
            CellAlignment::Left
        };
        (key.to_uppercase(), alignment)
    });
    let rows = objects.iter().map(|object| {
        first
            .keys()
            .map(|key| object.get(key).map_or_else(dash, cell))
            .collect::<Vec<_>>()
    });
    lay_out(headers.collect(), rows)
}

fn cell(value: &Value) -> String {
    let text = plain(value);
    if !matches!(value, Value::Array(_) | Value::Object(_))
        || text.chars().count() <= MOST_CHARACTERS
    {
        return text;
    }
    text.chars()
        .take(MOST_CHARACTERS - 1)
        .chain(['…'])
        .collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => dash(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => dash(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields = fields.values().map(plain);
            fields.collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// What stands where there is nothing.
pub(super) fn dash() -> String {
    "-".to_owned()
}

/// A value, or a dash.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(dash, |value| value.to_string())
}

/// Several values, or a dash.
pub(super) fn joined<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return dash();
    }
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// A limit, of which 0 is none.
pub(super) fn limit(slots: u32) -> String {
    if slots == 0 {
        "unlimited".to_owned()
    } else {
        slots.to_string()
    }
}

/// A duration in its two largest units.
pub(super) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 if ms > 0 => format!("{ms}ms"),
        0..60 => format!("{seconds}.{}s", ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A short duration, to three figures.
pub(super) fn micros(us: u64) -> String {
    let ms = us as f64 / 1e3;
    match us {
        0..1_000 => format!("{us}us"),
        1_000..10_000 => format!("{ms:.2}ms"),
        10_000..100_000 => format!("{ms:.1}ms"),
        100_000..1_000_000 => format!("{ms:.0}ms"),
        _ => age(us / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_spaces() {
        let columns = [
            Column::Left("NAME"),
            Column::Right("N"),
            Column::Left("LAST"),
        ];
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = render(
            &columns,
            [row(["a", "5", "x"]), row(["longer", "1000", ""])],
        );
        assert_eq!(text, "NAME       N  LAST\na          5  x\nlonger  1000\n");
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(render(&[Column::Left("NAME")], []), "NAME\n");
    }

    #[test]
    fn objects_are_shown_by_the_keys_of_the_first_in_its_order() {
        let of = |value: Value| value.as_object().unwrap().clone();
        let text = objects(&[
            of(json!({"service_id": 1, "backend": "b", "list": [{"x": 1, "y": null}, {"x": 2}]})),
            of(json!({"service_id": 10, "backend": null, "list": []})),
        ]);
        let expected =
            "SERVICE_ID  BACKEND  LIST\n         1  b        1 -, 2\n        10  -        -\n";
        assert_eq!(text, expected);
        assert_eq!(objects(&[]), "");
    }

    #[test]
    fn a_long_list_is_cut_and_a_long_text_is_not() {
        let list = cell(&json!(vec!["0123456789"; 20]));
        assert_eq!(list.chars().count(), MOST_CHARACTERS);
        assert!(list.ends_with('…'));
        assert_eq!(cell(&json!("x".repeat(100))).len(), 100);
    }

    #[test]
    fn short_durations_have_three_figures() {
        for (us, text) in [
            (0, "0us"),
            (999, "999us"),
            (1_234, "1.23ms"),
            (12_345, "12.3ms"),
            (123_456, "123ms"),
            (1_250_000, "1.2s"),
        ] {
            assert_eq!(micros(us), text);
        }
    }

    #[test]
    fn ages_are_short() {
        for (ms, text) in [
            (0, "0.0s"),
            (999, "999ms"),
            (1_250, "1.2s"),
            (59_999, "59.9s"),
            (185_000, "3m05s"),
            (7_800_000, "2h10m"),
            (90_000_000, "1d01h"),
        ] {
            assert_eq!(age(ms), text);
        }
    }
}
