"""What a run leaves to read: JSON lines for programs, one self-contained HTML page for people.

Neither holds an embedding, an absolute path or, unless asked for, a picture of a face before
protection. See docs/report.md for the schema.
"""

from facedeid.report.contact import contact_sheet
from facedeid.report.journal import Writer, read_records, write_jsonl, write_whole
from facedeid.report.markup import counted
from facedeid.report.page import write_html
from facedeid.report.pictures import difference, encode_previews
from facedeid.report.records import SCHEMA, latest, record, run_record, summary_record

__all__ = [
    "SCHEMA",
    "Writer",
    "contact_sheet",
    "counted",
    "difference",
    "encode_previews",
    "latest",
    "read_records",
    "record",
    "run_record",
    "summary_record",
    "write_html",
    "write_jsonl",
    "write_whole",
]
