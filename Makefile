.PHONY: check docs format soak

check:  ## What continuous integration runs.
	.ci/run

docs:  ## Build the documentation site in docs/site; every warning is an error.
	uv run --extra docs sphinx-build -W --keep-going -b html docs docs/site

format:  ## Format the code and repair what ruff can.
	uv run --extra test ruff format .
	uv run --extra test ruff check --fix .

soak:  ## 200 kills at random moments, and nothing is lost; some twenty minutes.
	uv run --extra test python tests/reliability/soak.py --kills 200
