"""Documents in columns of Parquet files. The one place that imports pyarrow."""

from collections.abc import Iterator
from pathlib import Path

from trainer.config_corpus import CorpusSection, SourceSection
from trainer.corpus.opening import FREE_BYTES, MAX_RATIO, BombError
from trainer.corpus.readings import BadLine, Document, Item, Unwanted
from trainer.errors import MissingDependencyError

_BATCH_ROWS = 64


def read_parquet(source: SourceSection, file: Path, limits: CorpusSection) -> Iterator[Item]:
    """The values of one column, row by row. Raises MissingDependencyError without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingDependencyError("pyarrow is not installed: pip install 'pretrain-run[parquet]'") from None
    name = source.name
    try:
        table = parquet.ParquetFile(file, memory_map=False, pre_buffer=False)
    except pyarrow.ArrowException as error:
        yield BadLine(name, str(file), 0, f"the file breaks off or is damaged: {error}", "read.damaged")
        return
    with table:
        fields = {field.name: str(field.type) for field in table.schema_arrow}
        if fields.get(source.text_field) not in ("string", "large_string"):
            reason = f"no column {source.text_field} of text; there are {', '.join(list(fields)[:10])}"
            yield BadLine(name, str(file), 0, reason, "read.no_text")
            return
        _refuse_bomb(table, source.text_field, file)
        row = 0
        try:
            for batch in table.iter_batches(_BATCH_ROWS, columns=[source.text_field], use_threads=False):
                for value in batch.column(0):
                    row += 1
                    text = value.as_py()
                    if text is None:
                        yield Unwanted(name, str(file), row, "no value", "read.no_value")
                    elif len(text) > limits.max_chars:
                        yield BadLine(name, str(file), row, f"longer than corpus.max_chars {limits.max_chars}", "read.too_long")
                    else:
                        yield Document(name, text, str(file), row)
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            yield BadLine(name, str(file), row + 1, f"the file breaks off or is damaged: {error}", "read.damaged")


def _refuse_bomb(table: "object", column: str, file: Path) -> None:
    """Raises BombError where a row group unpacks to far more than the whole file's size."""
    metadata = table.metadata  # type: ignore[attr-defined]
    limit = max(FREE_BYTES, MAX_RATIO * file.stat().st_size)
    for group in range(metadata.num_row_groups):
        columns = [metadata.row_group(group).column(index) for index in range(metadata.num_columns)]
        if any(each.path_in_schema == column and each.total_uncompressed_size > limit for each in columns):
            raise BombError(f"it unpacks to more than {MAX_RATIO} times its size")
