"""The store: results by identity, readable whenever a writer was killed.

A folder is complete once its `record.json` exists; that file is written last. Files are written under a temporary name
and renamed when they are complete and on the disk. Readers check the SHA-256 of the files that they use. Nothing is
unpickled: all files are JSON, Parquet, Arrow, NumPy without objects, or safetensors.

    artifacts, record          stages and predictions, and the record that completes each
    predictions                soft labels and answers as Parquet
    files, json_lines, listing writing and reading of files and folders
    lease                      one owner at a time for an artifact or study
    garbage                    garbage collection
    run_status, search_result  files of one study
    micro_batches              micro-batch sizes that were too large for a device
    verdicts                   results of model checks
"""
