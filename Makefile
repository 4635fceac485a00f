.PHONY: check format

check:  ## What continuous integration runs.
	.ci/run

format:  ## Format the code and repair what ruff can.
	uv run --extra test ruff format .
	uv run --extra test ruff check --fix .
