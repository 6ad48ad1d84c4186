# make demo         videos, training, evaluation and predictions on this machine, in minutes
# make demo-order   networks that see the order of frames, and one that does not
# make demo-stream    causal MoViNet, and what it says of videos as they run
# make demo-frames    ConvLSTM, which draws the frames to come
# make demo-recurrent   LRCN, and an LSTM on features of the trunk of `make demo`
# make test         the tests that take minutes in all
# make test-slow    the others: each key and flag, several processes, a cluster, the README's commands
# make fuzz         thousands of damaged files (FUZZ=6000): no crash, no hang, no filled memory
# make test-browser  reports and dashboards in Debian's chromium (apt install chromium)
# make wheel        builds the wheel and uses it as a stranger would, in an environment of its own
# make notebook     runs docs/demo.ipynb from top to bottom (NOTEBOOK=demo.ipynb keeps what it shows)
# make parity       the networks against PyTorch's, with the same weights
PYTHON ?= python3
VENV := .venv
VENV26 := .venv-paddle26
VENV_PARITY := .venv-parity
VENV_WHEEL := .venv-wheel
DATA := data/hmdb_data_demo
RUN := output/demo/tsn
ORDER := data/direction
TRAIN_FLAGS ?=
FUZZ ?= 6000
NOTEBOOK ?= /dev/null
ORDINARY := not parity and not browser and not slow

.PHONY: demo demo-data demo-order demo-recurrent demo-stream demo-frames test test-slow test-paddle26 test-browser \
	fuzz wheel notebook parity lint clean

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt
	touch $@

demo-data: $(VENV)/installed
	$(VENV)/bin/python data_tools/make_demo.py $(DATA)/videos
	$(VENV)/bin/python data_tools/avi2jpg.py $(DATA)/videos $(DATA)/frames
	$(VENV)/bin/python data_tools/jpg2pkl.py $(DATA)/frames $(DATA)/pkl
	$(VENV)/bin/python data_tools/data_list_gener.py $(DATA)/pkl $(DATA)

demo: demo-data
	$(VENV)/bin/python train.py --config configs/demo/tsn.yaml --save_dir $(RUN) --overwrite
	$(VENV)/bin/python infer.py --config configs/demo/tsn.yaml --weights $(RUN)/best.pdparams --split test
	$(VENV)/bin/python infer.py --config configs/demo/tsn.yaml --weights $(RUN)/best.pdparams \
		--top-k 3 --output $(RUN)/predictions.jsonl \
		$$(sed -n '1p;30p;60p' $(DATA)/test.list | sed 's|^pkl/|$(DATA)/videos/|;s|pkl$$|avi|')
	@echo
	@echo "Made here:"
	@echo "  $(DATA)/  videos/, frames/, pkl/, lists, clips.png"
	@echo "  $(RUN)/  best.pdparams, metrics.json, confusion_matrix.png, predictions.jsonl, vdl/"
	@echo "Dashboards:  $(VENV)/bin/visualdl --logdir output/demo   then open http://localhost:8040"
	@echo "Your videos: see 'Your own videos' in README.md"

$(ORDER)/train.list: | $(VENV)/installed
	$(VENV)/bin/python data_tools/make_demo.py $(ORDER)/videos --preset direction --clips 900
	$(VENV)/bin/python data_tools/data_list_gener.py $(ORDER)/videos $(ORDER) --split 90:4:6

demo-order: $(ORDER)/train.list
	$(VENV)/bin/python train.py --config configs/demo/eco.yaml --save_dir output/demo/eco --overwrite $(TRAIN_FLAGS)
	$(VENV)/bin/python infer.py --weights output/demo/eco/best.pdparams --split test
	$(VENV)/bin/python train.py --config configs/demo/timesformer.yaml --save_dir output/demo/timesformer --overwrite $(TRAIN_FLAGS)
	$(VENV)/bin/python infer.py --weights output/demo/timesformer/best.pdparams --split test
	$(VENV)/bin/python train.py --config configs/demo/tsn.yaml --data $(ORDER) --save_dir output/demo/tsn_order --overwrite \
		-o TRAIN.flip=0 --epoch 2 $(TRAIN_FLAGS)
	$(VENV)/bin/python infer.py --weights output/demo/tsn_order/best.pdparams --split test

demo-recurrent: $(ORDER)/train.list
	$(VENV)/bin/python data_tools/extract_features.py $(ORDER) $(ORDER)_features \
		--model $(RUN)/best.safetensors --frames uniform:8
	$(VENV)/bin/python train.py --config configs/demo/cnn_lstm.yaml --save_dir output/demo/cnn_lstm --overwrite
	$(VENV)/bin/python infer.py --weights output/demo/cnn_lstm/best.safetensors --split test
	$(VENV)/bin/python infer.py --weights output/demo/cnn_lstm/best.safetensors --trunk $(RUN)/best.safetensors \
		--curve output/demo/cnn_lstm/curves $$(sed -n '1p' $(ORDER)/test.list | sed 's|^|$(ORDER)/|;s| [0-9]*$$||')
	$(VENV)/bin/python train.py --config configs/demo/lrcn.yaml --save_dir output/demo/lrcn --overwrite $(TRAIN_FLAGS)
	$(VENV)/bin/python infer.py --weights output/demo/lrcn/best.pdparams --split test

demo-stream: $(ORDER)/train.list
	$(VENV)/bin/python train.py --config configs/demo/movinet.yaml --save_dir output/demo/movinet_stream --overwrite \
		-o MODEL.name=movinet_a0_stream $(TRAIN_FLAGS)
	$(VENV)/bin/python infer.py --weights output/demo/movinet_stream/best.safetensors --split test
	$(VENV)/bin/python infer.py --weights output/demo/movinet_stream/best.safetensors --every 4 --stride 3 \
		--stream $$(sed -n '1p;60p' $(ORDER)/test.list | sed 's|^|$(ORDER)/|;s| [0-9]*$$||')

demo-frames: $(VENV)/installed
	$(VENV)/bin/python train.py --config configs/demo/convlstm.yaml --save_dir output/demo/convlstm --overwrite $(TRAIN_FLAGS)
	$(VENV)/bin/python infer.py --weights output/demo/convlstm/best.safetensors --split test
	@echo "Look at:  output/demo/convlstm/predictions.png and per_step.png, pictures/"

test: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet -e ".[test]"
	$(MAKE) lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --durations=20 -m "$(ORDINARY)"

test-slow: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet -e ".[test]"
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist worksteal -m slow

test-paddle26:
	$(PYTHON) -m venv $(VENV26)
	$(VENV26)/bin/python -m pip install --quiet -e ".[test]" "paddlepaddle==2.6.2" "numpy<2"
	OMP_NUM_THREADS=1 $(VENV26)/bin/python -m pytest -q -n 2 --dist loadfile --durations=20 -m "$(ORDINARY)"

test-browser: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet -e ".[test,browser]"
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -m browser

fuzz: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet -e ".[test]"
	PADDLEVID_FUZZ_CASES=$(FUZZ) OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -s tests/test_fuzz.py

wheel: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet "build>=1.2"
	rm -rf build dist $(VENV_WHEEL)
	$(VENV)/bin/python -m build --quiet --wheel --outdir dist .
	$(PYTHON) -m venv $(VENV_WHEEL)
	$(VENV_WHEEL)/bin/python -m pip install --quiet "$$(ls dist/*.whl)[cpu]"
	elsewhere=$$(mktemp -d) && cd $$elsewhere && PATH=$(CURDIR)/$(VENV_WHEEL)/bin:$$PATH && set -e -x && \
		paddlevid && paddlevid models tsn_r18 && \
		paddlevid demo videos --clips 12 && \
		paddlevid avi2jpg videos frames && \
		paddlevid jpg2pkl frames pkl && \
		paddlevid lists pkl lists --split 50:25:25 && \
		paddlevid configs && \
		paddlevid train --config configs/demo/tsn.yaml --data lists --epoch 1 --save_dir run && \
		paddlevid infer --weights run/best.safetensors videos/Wave && \
		paddlevid doctor --config run/config.yaml && \
		paddlevid bench infer --model tsn_r18 --steps 2 && \
		rm -rf $$elsewhere

notebook: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet -e ".[notebook]"
	cd docs && $(CURDIR)/$(VENV)/bin/python -c "import nbclient, nbformat; \
		book = nbformat.read('demo.ipynb', 4); options = dict(coalesce_streams=True, record_timing=False); \
		nbclient.NotebookClient(book, timeout=1200, **options).execute(); \
		nbformat.write(book, '$(NOTEBOOK)')"

# torchvision would bring another PyTorch; its networks need no more than the one that is there.
parity:
	$(PYTHON) -m venv $(VENV_PARITY)
	$(VENV_PARITY)/bin/python -m pip install --quiet -e ".[cpu,test,parity]"
	$(VENV_PARITY)/bin/python -m pip install --quiet --no-deps torchvision==0.28.0
	OMP_NUM_THREADS=1 $(VENV_PARITY)/bin/python -m pytest -q -n 2 --dist worksteal -m parity -rP

lint:
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

clean:
	rm -rf $(VENV) $(VENV26) $(VENV_PARITY) $(VENV_WHEEL) build dist *.egg-info
